// Stand-ins for the annotations and checks of JUnit 4.
package org.junit

annotation class Test

object Assert {
    @JvmStatic
    fun assertTrue(message: String, condition: Boolean) = if (condition) Unit else throw AssertionError(message)

    @JvmStatic
    fun assertEquals(expected: Any, found: Any) = assertTrue("expected $expected, found $found", expected == found)

    @JvmStatic
    fun assertArrayEquals(expected: ByteArray, found: ByteArray) =
        assertTrue("arrays differ", expected.contentEquals(found))
}
