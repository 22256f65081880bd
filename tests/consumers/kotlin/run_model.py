"""Raw inputs on stdin, raw outputs on stdout, each with its length as 4 bytes before it: a model in LiteRT."""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

model = Interpreter(model_path=sys.argv[1], num_threads=1)
model.allocate_tensors()
source, target = model.get_input_details()[0], model.get_output_details()[0]
assert source["dtype"] == target["dtype"] == np.int8
size = int(np.prod(source["shape"]))
while given := sys.stdin.buffer.read(size):
    model.set_tensor(source["index"], np.frombuffer(given, np.int8).reshape(source["shape"]))
    model.invoke()
    answer = model.get_tensor(target["index"]).tobytes()
    sys.stdout.buffer.write(len(answer).to_bytes(4, "big") + answer)
    sys.stdout.buffer.flush()
