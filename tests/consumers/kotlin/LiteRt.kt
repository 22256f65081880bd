// Stand-ins with the interface of com.google.ai.edge.litert:litert:2.3.0 that Classifier.kt uses. What a model computes
// is asked of LiteRT in a process of Python: run_model.py.
package com.google.ai.edge.litert

import android.content.res.AssetManager
import java.io.DataInputStream
import java.io.File

enum class Accelerator { NONE, CPU, GPU, NPU }

class TensorBuffer internal constructor() : AutoCloseable {
    internal var bytes: ByteArray? = null

    fun writeInt8(data: ByteArray) {
        bytes = data
    }

    fun readInt8(): ByteArray = checkNotNull(bytes)

    override fun close() = Unit
}

class CompiledModel private constructor(path: File) : AutoCloseable {
    class Options(vararg val accelerators: Accelerator)

    private val process = ProcessBuilder(System.getenv("PYTHON"), System.getenv("RUN_MODEL"), path.path)
        .redirectError(ProcessBuilder.Redirect.INHERIT).start()
    private val answers = DataInputStream(process.inputStream)

    fun createInputBuffers(): List<TensorBuffer> = listOf(TensorBuffer())

    fun createOutputBuffers(): List<TensorBuffer> = listOf(TensorBuffer())

    fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>) {
        process.outputStream.write(checkNotNull(inputs.single().bytes))
        process.outputStream.flush()
        val answer = ByteArray(answers.readInt())
        answers.readFully(answer)
        outputs.single().bytes = answer
    }

    override fun close() {
        process.outputStream.close()
        process.waitFor()
    }

    companion object {
        fun create(assets: AssetManager, name: String, options: Options): CompiledModel {
            check(options.accelerators.single() == Accelerator.CPU)
            return CompiledModel(File(assets.folder, name))
        }
    }
}
