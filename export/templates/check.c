/* Passes the proof pack through LiteRT's C interface: does a model compute here what it computed where it was exported?
 *
 *   cc -std=c11 -O2 check.c -o check -L DIR -l LiteRt -Wl,-rpath,DIR -lm     (DIR holds libLiteRt.so)
 *   ./check ../model_int8.tflite input_int8.bin output_int8.bin int8 1
 *
 * The last two words are the type of input and output, and how far a value may be off, in steps of an integer or as a number;
 * proof.json has them for each model. Exit code 0: passed, 1: failed, 2: could not be run.
 *
 * The declarations are those of LiteRT 2.3, with handles as void pointers; a project that has LiteRT's headers can take
 * these instead.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
} Layout;
typedef struct {
  int element_type;
  Layout layout;
} TensorType;

int LiteRtCreateEnvironment(int options, const void *values, void **environment);
int LiteRtCreateModelFromFile(void *environment, const char *path, void **model);
int LiteRtCreateOptions(void **options);
int LiteRtSetOptionsHardwareAccelerators(void *options, int accelerators);
int LiteRtCreateCompiledModel(void *environment, void *model, void *options, void **compiled);
int LiteRtGetModelSignature(void *model, size_t index, void **signature);
int LiteRtGetSignatureInputTensorByIndex(void *signature, size_t index, void **tensor);
int LiteRtGetSignatureOutputTensorByIndex(void *signature, size_t index, void **tensor);
int LiteRtGetRankedTensorType(void *tensor, TensorType *type);
int LiteRtGetCompiledModelInputBufferRequirements(void *compiled, size_t signature, size_t index, void **requirements);
int LiteRtGetCompiledModelOutputBufferRequirements(void *compiled, size_t signature, size_t index, void **requirements);
int LiteRtCreateManagedTensorBufferFromRequirements(void *environment, const TensorType *type, void *requirements,
                                                    void **buffer);
int LiteRtLockTensorBuffer(void *buffer, void **memory, int mode);
int LiteRtUnlockTensorBuffer(void *buffer);
int LiteRtRunCompiledModel(void *compiled, size_t signature, size_t inputs, void **input_buffers, size_t outputs,
                           void **output_buffers);

enum { CPU = 1, READ = 0, WRITE = 1 };
enum { FLOAT32 = 1, UINT8 = 3, INT8 = 9 }; /* element types */

static void check(int status, const char *what) {
  if (status != 0) {
    fprintf(stderr, "%s: status %d\n", what, status);
    exit(2);
  }
}

static unsigned char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
    fprintf(stderr, "cannot read %s\n", path);
    exit(2);
  }
  *size = (size_t)ftell(file);
  rewind(file);
  unsigned char *data = malloc(*size + 1);
  if (data == NULL || fread(data, 1, *size, file) != *size) {
    fprintf(stderr, "cannot read %s\n", path);
    exit(2);
  }
  fclose(file);
  return data;
}

static size_t elements(const TensorType *type) {
  size_t count = 1;
  for (unsigned int i = 0; i < type->layout.rank; i++) count *= (size_t)type->layout.dimensions[i];
  return count;
}

static double value(const unsigned char *data, size_t index, const char *type) {
  if (strcmp(type, "int8") == 0) return ((const int8_t *)data)[index];
  if (strcmp(type, "uint8") == 0) return data[index];
  float number;
  memcpy(&number, data + index * sizeof number, sizeof number);
  return number;
}

int main(int argc, char **argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: %s MODEL INPUT.bin OUTPUT.bin int8|uint8|float32 TOLERANCE\n", argv[0]);
    return 2;
  }
  const char *kind = argv[4];
  const int type = strcmp(kind, "int8") == 0 ? INT8 : strcmp(kind, "uint8") == 0 ? UINT8 : FLOAT32;
  const size_t width = type == FLOAT32 ? sizeof(float) : 1;
  const double tolerance = atof(argv[5]);
  size_t input_size, output_size;
  unsigned char *inputs = read_file(argv[2], &input_size), *expected = read_file(argv[3], &output_size);

  void *environment, *model, *options, *compiled, *signature, *tensors[2], *requirements[2], *buffers[2], *memory;
  TensorType types[2];
  check(LiteRtCreateEnvironment(0, NULL, &environment), "environment");
  check(LiteRtCreateModelFromFile(environment, argv[1], &model), argv[1]);
  check(LiteRtCreateOptions(&options), "options");
  check(LiteRtSetOptionsHardwareAccelerators(options, CPU), "accelerator");
  check(LiteRtCreateCompiledModel(environment, model, options, &compiled), "compiling");
  check(LiteRtGetModelSignature(model, 0, &signature), "signature");
  check(LiteRtGetSignatureInputTensorByIndex(signature, 0, &tensors[0]), "input");
  check(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &tensors[1]), "output");
  check(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, 0, &requirements[0]), "input");
  check(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, 0, &requirements[1]), "output");
  for (int i = 0; i < 2; i++) {
    check(LiteRtGetRankedTensorType(tensors[i], &types[i]), "type");
    check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &types[i], requirements[i], &buffers[i]),
          "buffer");
  }

  const size_t image = elements(&types[0]) * width, answer = elements(&types[1]);
  const int of_type = types[0].element_type == type && types[1].element_type == type;
  if (!of_type || input_size == 0 || input_size % image != 0 || output_size != input_size / image * answer * width) {
    fprintf(stderr, "%s and %s do not belong to %s\n", argv[2], argv[3], argv[1]);
    return 2;
  }
  double worst = 0;
  for (size_t n = 0; n < input_size / image; n++) {
    check(LiteRtLockTensorBuffer(buffers[0], &memory, WRITE), "input");
    memcpy(memory, inputs + n * image, image);
    check(LiteRtUnlockTensorBuffer(buffers[0]), "input");
    check(LiteRtRunCompiledModel(compiled, 0, 1, &buffers[0], 1, &buffers[1]), "inference");
    check(LiteRtLockTensorBuffer(buffers[1], &memory, READ), "output");
    for (size_t i = 0; i < answer; i++) {
      const double off = fabs(value(memory, i, kind) - value(expected, n * answer + i, kind));
      if (!(off <= worst)) worst = off; /* also where it is no number */
    }
    check(LiteRtUnlockTensorBuffer(buffers[1]), "output");
  }
  const int passed = worst <= tolerance;
  printf("%s: %zu images, worst difference %g, allowed %g\n", passed ? "passed" : "FAILED", input_size / image, worst,
         tolerance);
  return passed ? 0 : 1;
}
