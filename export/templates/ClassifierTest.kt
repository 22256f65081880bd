// Checks Classifier.kt on a device against the proof pack. Made by edgecbam.
//
//     the .bin files of proof/     in src/androidTest/assets
//
// Not compiled against the Android SDK; see Classifier.kt.
package edgecbam

import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith

@RunWith(AndroidJUnit4::class)
class ClassifierTest {
    private val instrumentation = InstrumentationRegistry.getInstrumentation()

    private fun pack(name: String): ByteArray = instrumentation.context.assets.open(name).use { it.readBytes() }

    @Test
    fun answersAreThoseOfTheProofPack() {
        Classifier(instrumentation.targetContext.assets).use { classifier ->
            val pixels = pack("pixels.bin")
            val expected = pack("output_int8.bin")
            val size = Classifier.HEIGHT * Classifier.WIDTH * 3
            assertEquals(IMAGES, pixels.size / size)
            for (image in 0 until IMAGES) {
                val found = classifier.run(pixels.copyOfRange(image * size, (image + 1) * size))
                assertEquals(classifier.labels.size, found.size)
                for (index in found.indices) {
                    val difference = Math.abs(found[index] - expected[image * found.size + index])
                    assertTrue("image $image, output $index is off by $difference", difference <= TOLERANCE)
                }
            }
        }
    }

    @Test
    fun imagesAreFittedAsInTraining() {
        val rgb = pack("source.bin")
        val argb = IntArray(rgb.size / 3) { pixel ->
            (0..2).fold(255) { colour, channel -> colour shl 8 or (rgb[3 * pixel + channel].toInt() and 255) }
        }
        assertArrayEquals(pack("source_fitted.bin"), Classifier.fit(argb, SOURCE_WIDTH, SOURCE_HEIGHT))
    }

    companion object {
        const val IMAGES = @IMAGES@
        const val TOLERANCE = @TOLERANCE@
        const val SOURCE_WIDTH = @SOURCE_WIDTH@
        const val SOURCE_HEIGHT = @SOURCE_HEIGHT@
    }
}
