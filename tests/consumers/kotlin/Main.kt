// Runs every test of ClassifierTest, or the one that is named, or classifies an image: its path, width and height follow;
// 4 bytes a pixel, ARGB.
import android.content.res.AssetManager
import android.graphics.Bitmap
import edgecbam.Classifier
import edgecbam.ClassifierTest
import java.io.DataInputStream
import java.io.File

fun main(arguments: Array<String>) {
    if (arguments.size == 3) return classify(arguments[0], arguments[1].toInt(), arguments[2].toInt())
    for (method in ClassifierTest::class.java.methods.filter { it.isAnnotationPresent(org.junit.Test::class.java) }) {
        if (arguments.isNotEmpty() && method.name != arguments[0]) continue
        method.invoke(ClassifierTest())
        println("passed: ${method.name}")
    }
}

private fun classify(path: String, width: Int, height: Int) {
    val stream = DataInputStream(File(path).inputStream().buffered())
    val argb = IntArray(width * height) { stream.readInt() }
    Classifier(AssetManager(File(System.getenv("APP_ASSETS")))).use { classifier ->
        for (config in listOf(Bitmap.Config.ARGB_8888, Bitmap.Config.HARDWARE)) {
            for (score in classifier.classify(Bitmap(width, height, argb, config))) {
                println("${score.value}\t${score.label}")
            }
        }
    }
}
