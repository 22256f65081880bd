// Checks Classifier.swift against the proof pack. Made by edgecbam.
//
//     the .bin files of proof/, model_int8.tflite and labels.txt     in the tests' target
//
// Not compiled: edgecbam's tests only parse it.
import XCTest

@testable import App  // the name of the app's module

final class ClassifierTests: XCTestCase {
  private let images = @IMAGES@
  private let tolerance = @TOLERANCE@

  private func pack(_ name: String) throws -> Data {
    let url = try XCTUnwrap(Bundle(for: ClassifierTests.self).url(forResource: name, withExtension: "bin"))
    return try Data(contentsOf: url)
  }

  func testAnswersAreThoseOfTheProofPack() throws {
    let classifier = try Classifier(bundle: Bundle(for: ClassifierTests.self))
    let pixels = [UInt8](try pack("pixels"))
    let expected = [UInt8](try pack("output_int8")).map { Int8(bitPattern: $0) }
    let size = Classifier.height * Classifier.width * 3
    XCTAssertEqual(pixels.count, images * size)
    for image in 0..<images {
      let found = try classifier.run(Array(pixels[image * size..<(image + 1) * size]))
      XCTAssertEqual(found.count, classifier.labels.count)
      for index in found.indices {
        let difference = abs(Int(found[index]) - Int(expected[image * found.count + index]))
        XCTAssertLessThanOrEqual(difference, tolerance, "image \(image), output \(index)")
      }
    }
  }

  func testImagesAreFittedAsInTraining() throws {
    let found = Classifier.fit([UInt8](try pack("source")), width: @SOURCE_WIDTH@, height: @SOURCE_HEIGHT@)
    XCTAssertEqual(found, [UInt8](try pack("source_fitted")))
  }
}
