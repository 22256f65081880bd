// @NAME@ on Android, through LiteRT's CompiledModel. Made by edgecbam from manifest.json.
//
//     implementation("com.google.ai.edge.litert:litert:2.3.0")     in build.gradle.kts
//     model_int8.tflite and labels.txt                             in src/main/assets
//
// Not compiled against the Android SDK or the LiteRT package: edgecbam's tests compile and run it on the JVM, with
// stand-ins that have the interfaces used here. ClassifierTest.kt checks it on a device.
package edgecbam

import android.content.res.AssetManager
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import kotlin.math.max
import kotlin.math.min

/** What the model says of a line of labels.txt: @MEANING@. */
data class Score(val label: String, val value: Float)

/** To be used by one thread at a time, and closed. */
class Classifier(assets: AssetManager) : AutoCloseable {
    val labels: List<String> = assets.open("labels.txt").bufferedReader().use { it.readLines() }
    private val model = CompiledModel.create(assets, MODEL, CompiledModel.Options(Accelerator.CPU))
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    /** @ORDER_IN_WORDS@. The bitmap must be upright, as ImageDecoder gives it. */
    fun classify(bitmap: Bitmap): List<Score> {
        val readable =
            if (bitmap.config == Bitmap.Config.HARDWARE) bitmap.copy(Bitmap.Config.ARGB_8888, false) else bitmap
        val argb = IntArray(readable.width * readable.height)
        readable.getPixels(argb, 0, readable.width, 0, 0, readable.width, readable.height)
        return scores(run(fit(argb, readable.width, readable.height)))
    }

    /** Pixels [HEIGHT, WIDTH, 3], 0 to 255 as bytes -> what the model answers, as it is. */
    fun run(pixels: ByteArray): ByteArray {
        inputs[0].writeInt8(ByteArray(pixels.size) { (pixels[it].toInt() - 128).toByte() })
        model.run(inputs, outputs)
        return outputs[0].readInt8()
    }

    fun scores(answer: ByteArray): List<Score> = labels.mapIndexed { index, label -> Score(label, @VALUE@) }@ORDER@

    override fun close() {
        (inputs + outputs).forEach { it.close() }
        model.close()
    }

    companion object {
        const val MODEL = "model_int8.tflite"
        const val HEIGHT = @HEIGHT@
        const val WIDTH = @WIDTH@
        const val SCALE = @SCALE@f
        const val ZERO_POINT = @ZERO_POINT@
@STATISTICS_KOTLIN@        private const val PLACES = 22

        /**
         * Colours 0xAARRGGBB of an image of any size -> [HEIGHT, WIDTH, 3], as in training: on white,
         * @FIT_IN_WORDS@, bilinear with averaging where it shrinks, rounded after each direction.
         */
        fun fit(argb: IntArray, width: Int, height: Int): ByteArray {
            val across = @ACROSS_KOTLIN@
            val down = @DOWN_KOTLIN@
            val left = (width - across) / 2
            val top = (height - down) / 2
            val columns = weights(width, left, left + across, WIDTH)
            val rows = weights(height, top, top + down, HEIGHT)
            val half = 1 shl (PLACES - 1)
            val narrow = IntArray(height * WIDTH * 3)
            for (y in rows.first().start until rows.last().start + rows.last().factors.size) {
                for (x in 0 until WIDTH) {
                    for (shift in 0..2) {
                        var sum = half
                        columns[x].factors.forEachIndexed { k, factor ->
                            sum += onWhite(argb[y * width + columns[x].start + k], 16 - 8 * shift) * factor
                        }
                        narrow[(y * WIDTH + x) * 3 + shift] = (sum shr PLACES).coerceIn(0, 255)
                    }
                }
            }
            val pixels = ByteArray(HEIGHT * WIDTH * 3)
            for (y in 0 until HEIGHT) {
                for (i in 0 until WIDTH * 3) {
                    var sum = half
                    rows[y].factors.forEachIndexed { k, factor ->
                        sum += narrow[(rows[y].start + k) * WIDTH * 3 + i] * factor
                    }
                    pixels[y * WIDTH * 3 + i] = (sum shr PLACES).coerceIn(0, 255).toByte()
                }
            }
            return pixels
        }

        private class Weights(val start: Int, val factors: IntArray)

        /** For each of `count` pixels, which ones of `size` it is made of, and how much of each. */
        private fun weights(size: Int, from: Double, to: Double, count: Int): List<Weights> {
            val scale = (to.toFloat() - from.toFloat()).toDouble() / count
            val reach = max(scale, 1.0)
            return List(count) { index ->
                val centre = from.toFloat() + (index + 0.5) * scale
                val start = max(0, (centre - reach + 0.5).toInt())
                val end = min(size, (centre + reach + 0.5).toInt())
                val real = DoubleArray(end - start) {
                    max(0.0, 1 - Math.abs((start + it - centre + 0.5) * (1 / reach)))
                }
                val sum = real.sum()
                Weights(start, IntArray(real.size) { (0.5 + real[it] / sum * (1 shl PLACES)).toInt() })
            }
        }

        private fun onWhite(colour: Int, shift: Int): Int {
            val alpha = colour ushr 24
            return ((colour shr shift and 255) * alpha + 255 * (255 - alpha) + 127) / 255
        }
    }
}
