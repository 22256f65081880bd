// @NAME@ on iOS and macOS, through LiteRT's CompiledModel. Made by edgecbam from manifest.json.
//
//     https://github.com/google-ai-edge/LiteRT, branch release/2.3.0, product LiteRT     as a Swift package
//     model_int8.tflite and labels.txt                                                   in the app's target
//
// Not compiled: edgecbam's tests only parse it. ClassifierTests.swift checks it on a device or a Mac.
import CoreGraphics
import Foundation
import LiteRT

/// What the model says of a line of labels.txt: @MEANING@.
public struct Score: Equatable {
  public let label: String
  public let value: Float
}

/// To be used by one thread at a time.
public final class Classifier {
  public static let height = @HEIGHT@
  public static let width = @WIDTH@
  static let scale: Float = @SCALE@
  static let zeroPoint = @ZERO_POINT@
@STATISTICS_SWIFT@  private static let places: Int32 = 22

  public let labels: [String]
  private let environment: Environment
  private let model: CompiledModel
  private let inputs: [TensorBuffer]
  private let outputs: [TensorBuffer]

  public init(bundle: Bundle = .main) throws {
    guard let path = bundle.path(forResource: "model_int8", ofType: "tflite"),
      let names = bundle.path(forResource: "labels", ofType: "txt")
    else { throw CocoaError(.fileNoSuchFile) }
    labels = try String(contentsOfFile: names, encoding: .utf8).split(separator: "\n").map(String.init)
    environment = try Environment()
    let options = try Options()
    try options.setHardwareAccelerators([.cpu])
    model = try CompiledModel(filePath: path, environment: environment, options: options)
    inputs = try model.createInputBuffers()
    outputs = try model.createOutputBuffers()
  }

  /// @ORDER_IN_WORDS@. The image must be upright: a CGImage knows nothing of UIImage.imageOrientation.
  public func classify(_ image: CGImage) throws -> [Score] {
    scores(try run(Classifier.fit(Classifier.rgb(image), width: image.width, height: image.height)))
  }

  /// Pixels [height, width, 3] -> what the model answers, as it is.
  public func run(_ pixels: [UInt8]) throws -> [Int8] {
    try inputs[0].write(pixels.map { Int8(Int($0) - 128) })
    try model.run(inputs: inputs, outputs: outputs)
    return try outputs[0].read()
  }

  public func scores(_ answer: [Int8]) -> [Score] {
    labels.enumerated().map { index, label in
      Score(label: label, value: @VALUE_SWIFT@)
    }@ORDER_SWIFT@
  }

  /// The colours of an image on white, [height, width, 3].
  static func rgb(_ image: CGImage) -> [UInt8] {
    let (width, height) = (image.width, image.height)
    var bytes = [UInt8](repeating: 255, count: width * height * 4)
    bytes.withUnsafeMutableBytes { buffer in
      let context = CGContext(
        data: buffer.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
        space: CGColorSpace(name: CGColorSpace.sRGB)!, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
      context?.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
    }
    return bytes.indices.filter { $0 % 4 != 3 }.map { bytes[$0] }
  }

  /// Colours [height, width, 3] of any size -> [Classifier.height, Classifier.width, 3], as in training:
  /// @FIT_IN_WORDS@, bilinear with averaging where it shrinks, rounded after each direction.
  static func fit(_ rgb: [UInt8], width: Int, height: Int) -> [UInt8] {
    let across = @ACROSS_SWIFT@
    let down = @DOWN_SWIFT@
    let left = (Double(width) - across) / 2
    let top = (Double(height) - down) / 2
    let columns = weights(width, from: left, to: left + across, count: Classifier.width)
    let rows = weights(height, from: top, to: top + down, count: Classifier.height)
    let half = Int32(1) << (places - 1)
    let line = Classifier.width * 3
    var narrow = [Int32](repeating: 0, count: height * line)
    for y in rows.first!.start..<(rows.last!.start + rows.last!.factors.count) {
      for x in 0..<Classifier.width {
        for channel in 0..<3 {
          var sum = half
          for (k, factor) in columns[x].factors.enumerated() {
            sum += Int32(rgb[(y * width + columns[x].start + k) * 3 + channel]) * factor
          }
          narrow[y * line + x * 3 + channel] = min(max(sum >> places, 0), 255)
        }
      }
    }
    var pixels = [UInt8](repeating: 0, count: Classifier.height * line)
    for y in 0..<Classifier.height {
      for i in 0..<line {
        var sum = half
        for (k, factor) in rows[y].factors.enumerated() {
          sum += narrow[(rows[y].start + k) * line + i] * factor
        }
        pixels[y * line + i] = UInt8(min(max(sum >> places, 0), 255))
      }
    }
    return pixels
  }

  private struct Weights {
    let start: Int
    let factors: [Int32]
  }

  /// For each of `count` pixels, which ones of `size` it is made of, and how much of each.
  private static func weights(_ size: Int, from: Double, to: Double, count: Int) -> [Weights] {
    let scale = Double(Float(to) - Float(from)) / Double(count)
    let reach = max(scale, 1)
    return (0..<count).map { index in
      let centre = Double(Float(from)) + (Double(index) + 0.5) * scale
      let start = max(0, Int(centre - reach + 0.5))
      let end = min(size, Int(centre + reach + 0.5))
      let real = (start..<end).map { max(0, 1 - abs((Double($0) - centre + 0.5) * (1 / reach))) }
      let sum = real.reduce(0, +)
      return Weights(start: start, factors: real.map { Int32(0.5 + $0 / sum * Double(Int32(1) << places)) })
    }
  }
}
