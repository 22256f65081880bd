package android.graphics

class Bitmap(val width: Int, val height: Int, private val argb: IntArray, val config: Config?) {
    enum class Config { ARGB_8888, HARDWARE }

    fun copy(config: Config, isMutable: Boolean): Bitmap {
        check(!isMutable)
        return Bitmap(width, height, argb, config)
    }

    @Suppress("LongParameterList")
    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        check(config != Config.HARDWARE) { "Android cannot read pixels of these" }
        check(offset == 0 && stride == this.width && x == 0 && y == 0 && width == this.width && height == this.height)
        argb.copyInto(pixels)
    }
}
