"""What lies beside the package."""
