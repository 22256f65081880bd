# One target for each habit. `make demo` and `make test` set up their own virtual environment first.
#
#   make demo      train, quantize, export, verify and benchmark on the built-in images
#   make test      all tests
#   make lint      ruff and mypy
#   make format    lay out the code
#   make lock      renew constraints.txt, and locks/ with the digests of every file
#   make hashes    renew locks/ alone
#   make bench-lowering  what CBAM costs, plain and lowered; writes benchmarks/results/lowering.json
#   make bench-onnx  what the ONNX files are worth beside others; writes benchmarks/results/onnx.json
#   make bench-ablation  what attention, averaging, decay and int8 are worth; writes benchmarks/results/ablation.json
#   make bench-training  training beside a plain tf_keras fit; writes benchmarks/results/training_speed_*.json
#   make bench-full  the trainings of docs/results.md, hours; writes benchmarks/results/training_*_seed_*.json
#   make chaos     crashes and faults at every write, kills at random; writes benchmarks/results/chaos.json
#   make soak      half an hour of benchmark sessions; writes benchmarks/results/soak.json
#   make fuzz      ten minutes of fuzzing; writes benchmarks/results/fuzz.json
#   make bench-app  what SOFTMAX in int8 and MediaPipe's resizing cost; writes two files of benchmarks/results
#   make bench-layers  what each layer costs in int8; writes benchmarks/results/layers_*.json
#   make bench-trust  how far the benchmark can be trusted: the next three and docs/trust.md
#   make bench-coverage  simulated coverage of the intervals; writes benchmarks/results/coverage.json
#   make bench-tools  p50 beside public tools; writes benchmarks/results/against_tools.json
#   make bench-sessions  a file against itself; writes benchmarks/results/control_sessions.json
#   make prove-runtimes  which runtime each file needs; writes benchmarks/results/runtimes.json
#   make prove-runtimes-arm64  the same on emulated 64-bit Arm; writes benchmarks/results/runtimes_arm64.json
#   make prove-saturation  what processors without VNNI compute; writes benchmarks/results/saturation.json
#   make clean     remove what these targets made, runs/ aside
#
# PYTHON=python3.12 chooses the interpreter of the environment; VENV=dir its folder.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK_ENV := build/lock-env
TYPES := build/types
IMAGES := /usr/share/datasets/fashion-mnist
DEMO := runs/demo/export
STUDY := build/onnx
ABLATION := runs/ablation
TRUST_MODELS := $(foreach format,tflite onnx,$(DEMO)/model_fp32.$(format) $(DEMO)/model_int8.$(format)) \
  $(addprefix $(STUDY)/resnet_16_32_64_at_96x96_cbam_,int8_tflite.tflite fp32.onnx int8.onnx)
AT := --set data.source=builtin --set data.height
AMX := $(if $(shell grep -m1 -ow amx_bf16 /proc/cpuinfo 2>/dev/null),amx,no_amx)
WEB := build/web
WEB_PINS := tests/consumers/web
KOTLIN := build/kotlin
KOTLIN_PINS := tests/consumers/kotlin
WEBGPU_ENV := build/webgpu-env
WEBGPU_PINS := tests/runtimes/gpu_constraints.txt
UV := uv==0.13.9
HASHES = "$(LOCK_ENV)/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-header --native-tls
MEDIAPIPE_ENV := build/mediapipe-env
MEDIAPIPE_PINS := tests/consumers/mediapipe_requirements.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-data test-ssh test-web test-page test-gpu test-mediapipe test-compilers test-kotlin chaos soak fuzz lint types format lock hashes bench-lowering bench-onnx bench-ablation bench-training bench-full bench-layers bench-app bench-trust bench-coverage bench-tools bench-sessions runtime-models prove-runtimes prove-runtimes-arm64 prove-saturation clean

help:
	@sed -n 's/^#  *\(make .*\)/\1/p' Makefile

setup: $(READY)

# Finds a Python that TensorFlow has packages for and that can make virtual environments: sets $$python, or says what
# to do.
define FIND_PYTHON
	python=; \
	for name in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if command -v $$name >/dev/null 2>&1 && \
	     $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: no Python 3.11, 3.12 or 3.13 found: install the package python3, or give PYTHON=/path/to/python" >&2; \
	  exit 3; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	  package=$$($$python -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo "make: installing $$package, which $$python needs to make a virtual environment"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$package || exit 3; \
	  else \
	    echo "make: $$python cannot make a virtual environment: sudo apt-get install $$package" >&2; \
	    exit 3; \
	  fi; \
	fi
endef

$(READY): pyproject.toml locks/dev.txt
	@$(FIND_PYTHON); \
	echo "make: setting up $(VENV) with $$($$python --version); this downloads about 1 GB once"; \
	[ -x "$(BIN)/python" ] && "$(BIN)/python" -m pip --version >/dev/null 2>&1 || \
	  { rm -rf "$(VENV)" && $$python -m venv "$(VENV)"; }
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch "$(READY)"

demo: $(READY)
	"$(BIN)/edgecbam" run --out runs/demo --overwrite
	@echo "the report: $(CURDIR)/runs/demo/report/report.md"

# Installs the Debian packages in $$missing, as root, for $(1); else says what is missing.
define INSTALL
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "make: installing $$missing, for $(1)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing && missing=; \
	fi; \
	if [ -n "$$missing" ]; then \
	  echo "make: missing, and $(1) will fail: sudo apt-get install $$missing" >&2; \
	fi
endef

# The four original files of Fashion-MNIST; a test compares the built-in images with them.
test-data:
	@if [ ! -d "$(IMAGES)" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq dataset-fashion-mnist; } || \
	      echo "make: could not install dataset-fashion-mnist: the tests that need it will fail" >&2; \
	  else \
	    echo "make: dataset-fashion-mnist is missing, and the tests that need it will fail:" \
	      "sudo apt-get install dataset-fashion-mnist" >&2; \
	  fi; \
	fi

# ONNX Runtime's WebAssembly backend, pinned by package-lock.json; tests run the exported ONNX file in it under Node.
test-web:
	@missing=; \
	command -v node >/dev/null 2>&1 || missing="nodejs"; \
	command -v npm >/dev/null 2>&1 || missing="$$missing npm"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "make: installing $$missing, for the tests in WebAssembly"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing && missing=; \
	fi; \
	if [ -n "$$missing" ]; then \
	  echo "make: missing, and the tests in WebAssembly will fail: sudo apt-get install $$missing" >&2; \
	elif ! cmp -s "$(WEB_PINS)/package-lock.json" "$(WEB)/.ready"; then \
	  rm -rf "$(WEB)" && mkdir -p "$(WEB)" && cp "$(WEB_PINS)"/package*.json "$(WEB_PINS)/.npmrc" "$(WEB)" && \
	  (cd "$(WEB)" && npm ci) && cp "$(WEB)/package-lock.json" "$(WEB)/.ready" || \
	    echo "make: could not install onnxruntime-web: the tests in WebAssembly will fail" >&2; \
	fi

# A browser, in which tests look at report.html.
test-page:
	@if ! command -v chromium >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } || \
	      echo "make: could not install chromium: the tests of report.html will fail" >&2; \
	  else \
	    echo "make: chromium is missing, and the tests of report.html will fail: sudo apt-get install chromium" >&2; \
	  fi; \
	fi

# An ssh server and its client; tests measure over a connection to 127.0.0.1, with keys of their own.
test-ssh:
	@missing=; \
	[ -x /usr/sbin/sshd ] || command -v sshd >/dev/null 2>&1 || missing="openssh-server"; \
	command -v ssh >/dev/null 2>&1 || missing="$$missing openssh-client"; \
	$(call INSTALL,the tests over ssh)

# SwiftShader, a GPU emulated on the CPU, which Debian's Chromium brings, with Vulkan's loader; and an environment for
# ONNX Runtime's WebGPU build, which would overwrite the build for CPUs.
test-gpu: $(READY)
	@missing=; \
	"$(BIN)/python" -c 'import ctypes; ctypes.CDLL("libvulkan.so.1")' >/dev/null 2>&1 || missing="libvulkan1"; \
	[ -e /usr/lib/chromium/libvk_swiftshader.so ] || missing="$$missing chromium-common"; \
	$(call INSTALL,the tests on an emulated GPU)
	@if ! cat pyproject.toml locks/webgpu.txt | cmp -s - "$(WEBGPU_ENV)/.ready"; then \
	  echo "make: setting up $(WEBGPU_ENV), for the tests of ONNX Runtime's WebGPU build"; \
	  rm -rf "$(WEBGPU_ENV)" && "$(BIN)/python" -m venv "$(WEBGPU_ENV)" && \
	  "$(WEBGPU_ENV)/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/webgpu.txt && \
	  "$(WEBGPU_ENV)/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . && \
	  cat pyproject.toml locks/webgpu.txt > "$(WEBGPU_ENV)/.ready" || \
	    echo "make: could not set up $(WEBGPU_ENV): the tests of ONNX Runtime's WebGPU build will fail" >&2; \
	fi

# Google's MediaPipe, which reads the metadata of RUN/app as phones do. It wants an absl-py that TensorFlow Model
# Optimization does not: an environment for itself, with OpenCV's system libraries.
test-mediapipe: $(READY)
	@if ! cmp -s locks/mediapipe.txt "$(MEDIAPIPE_ENV)/.ready"; then \
	  echo "make: setting up $(MEDIAPIPE_ENV), for the tests of MediaPipe"; \
	  rm -rf "$(MEDIAPIPE_ENV)" && "$(BIN)/python" -m venv "$(MEDIAPIPE_ENV)" && \
	  "$(MEDIAPIPE_ENV)/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/mediapipe.txt && \
	  cp locks/mediapipe.txt "$(MEDIAPIPE_ENV)/.ready" || \
	    echo "make: could not set up $(MEDIAPIPE_ENV): the tests of MediaPipe will fail" >&2; \
	fi
	@missing=; \
	for library in libGL.so.1:libgl1 libEGL.so.1:libegl1 libGLESv2.so.2:libgles2 \
	  libgthread-2.0.so.0:libglib2.0-0; do \
	  "$(BIN)/python" -c "import ctypes, sys; ctypes.CDLL(sys.argv[1])" $${library%%:*} >/dev/null 2>&1 || \
	    missing="$$missing $${library##*:}"; \
	done; \
	$(call INSTALL,the tests of MediaPipe)

# Compilers for what apps get: a program in C, and a C array for C and C++.
test-compilers:
	@missing=; \
	command -v cc >/dev/null 2>&1 || missing="gcc libc6-dev"; \
	command -v c++ >/dev/null 2>&1 || missing="$$missing g++"; \
	$(call INSTALL,the tests that compile C and C++)

# The Kotlin compiler, pinned by package-lock.json, and a Java to run it: tests compile what Android apps get.
test-kotlin: test-web
	@missing=; \
	command -v java >/dev/null 2>&1 || missing="default-jre-headless"; \
	$(call INSTALL,the tests in Kotlin)
	@if command -v npm >/dev/null 2>&1 && ! cmp -s "$(KOTLIN_PINS)/package-lock.json" "$(KOTLIN)/.ready"; then \
	  rm -rf "$(KOTLIN)" && mkdir -p "$(KOTLIN)" && cp "$(KOTLIN_PINS)"/package*.json "$(KOTLIN_PINS)/.npmrc" "$(KOTLIN)" && \
	  (cd "$(KOTLIN)" && npm ci) && cp "$(KOTLIN)/package-lock.json" "$(KOTLIN)/.ready" || \
	    echo "make: could not install the Kotlin compiler: the tests in Kotlin will fail" >&2; \
	fi

test: $(READY) test-data test-ssh test-web test-page test-gpu test-mediapipe test-compilers test-kotlin
	"$(BIN)/python" -m pytest $(ARGS)

lint: $(READY) types
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	MYPYPATH="$(TYPES)" "$(BIN)/mypy"

# The package as a wheel lays it out, of links: mypy cannot know that export/ and benchmarks/ belong into edgecbam/.
types:
	@rm -rf "$(TYPES)" && mkdir -p "$(TYPES)/edgecbam"
	@for entry in edgecbam/* export benchmarks; do ln -s "../../../$$entry" "$(TYPES)/edgecbam/"; done

format: $(READY)
	"$(BIN)/ruff" format .
	"$(BIN)/ruff" check --fix .

# Resolves in an environment of its own, so that what happens to be installed has no say; downloads, installs nothing.
lock:
	@$(FIND_PYTHON); rm -rf "$(LOCK_ENV)" && $$python -m venv "$(LOCK_ENV)"
	"$(LOCK_ENV)/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
	"$(LOCK_ENV)/bin/python" -m pip install --quiet --dry-run --ignore-installed --report build/lock.json '.[all,dev]'
	@{ sed '/^[^#]/,$$d' constraints.txt; "$(LOCK_ENV)/bin/python" -c "$$PRINT_LOCK" build/lock.json; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt
	@$(MAKE) hashes

# The digests of every file of the pinned versions, for every platform: what pip is to refuse cannot be installed.
hashes:
	@$(FIND_PYTHON); [ -d "$(LOCK_ENV)" ] || $$python -m venv "$(LOCK_ENV)"
	"$(LOCK_ENV)/bin/python" -m pip install --quiet --disable-pip-version-check $(UV)
	mkdir -p locks
	$(HASHES) --extra all --extra dev -c constraints.txt pyproject.toml -o locks/dev.txt
	echo setuptools > build/webgpu.in
	$(HASHES) --extra onnxruntime-webgpu -c constraints.txt -c "$(WEBGPU_PINS)" pyproject.toml build/webgpu.in -o locks/webgpu.txt
	$(HASHES) "$(MEDIAPIPE_PINS)" -o locks/mediapipe.txt

define PRINT_LOCK
import json, re, sys
found = json.load(open(sys.argv[1]))["install"]
pins = {re.sub("[-_.]+", "-", p["metadata"]["name"]).lower(): p["metadata"]["version"] for p in found}
print("\n".join(f"{name}=={version}" for name, version in sorted(pins.items()) if name != "edgecbam"))
endef
export PRINT_LOCK

# Wants a quiet machine; ARGS=--quick gives a look, which is not for publication.
bench-lowering: $(READY)
	TF_CPP_MIN_LOG_LEVEL=3 "$(BIN)/python" -m edgecbam.export.lowering_study build/lowering
	"$(BIN)/python" -m edgecbam.benchmarks.lowering build/lowering benchmarks/results/lowering.json $(ARGS)

# As above.
bench-onnx: $(READY)
	TF_CPP_MIN_LOG_LEVEL=3 "$(BIN)/python" -m edgecbam.export.onnx_study build/onnx
	"$(BIN)/python" -m edgecbam.benchmarks.onnx_files build/onnx benchmarks/results/onnx.json $(ARGS)

# Hours of training; can be interrupted and called again. The latencies want a quiet machine at the end.
bench-ablation: $(READY) test-data
	"$(BIN)/edgecbam" ablate $(if $(wildcard $(ABLATION)/plan.json),--resume,fashion_ablation) --out $(ABLATION) \
	  --attention none,channel,spatial,cbam,cbam:open+stage $(ARGS)
	cp $(ABLATION)/ablation.json $(ABLATION)/ablation.svg benchmarks/results/
	"$(BIN)/python" -m edgecbam.benchmarks.ablation_table benchmarks/results docs/ablation.md

# Can be interrupted and called again.
bench-full: $(READY) test-data
	for name in fashion_small fashion_resnet20; do \
	  if [ -f runs/$$name/recipe.toml ]; then how=--resume; else how=$$name; fi; \
	  "$(BIN)/edgecbam" run $$how --out runs/$$name || exit; \
	done
	"$(BIN)/python" -m edgecbam.benchmarks.trainings benchmarks/results docs/results.md runs/fashion_small runs/fashion_resnet20

# Three hours of one CPU: every change of a file in every stage, 200 kills. What each part found is kept in build/chaos,
# so that it goes on where it was stopped; ARGS="--only faults-export kills" does parts of it in a second process.
chaos: $(READY) test-compilers
	"$(BIN)/python" tests/chaos/crashes.py benchmarks/results/chaos.json --parts build/chaos $(ARGS)

# Half an hour of benchmark sessions: what they leave behind.
soak: $(READY)
	"$(BIN)/python" tests/chaos/soak.py benchmarks/results/soak.json 30

# Ten minutes: six of atheris on our parsers, two of damaged files in the runtimes, two of damaged run folders.
fuzz: $(READY) $(DEMO)/stage.json
	rm -rf build/fuzz
	"$(BIN)/python" tests/fuzz/fuzz.py all 360 build/fuzz
	"$(BIN)/python" tests/fuzz/native.py build/fuzz/native.json 120
	"$(BIN)/python" tests/fuzz/folders.py build/fuzz/folders.json 120 runs/demo
	"$(BIN)/python" tests/fuzz/fuzz.py summary build/fuzz benchmarks/results/fuzz.json

# Wants a quiet machine.
bench-app: $(READY) $(DEMO)/stage.json test-mediapipe
	"$(BIN)/python" -m edgecbam.export.app_study build/app runs/demo
	"$(BIN)/edgecbam" benchmark build/app/fashion_cbam_int8_softmax.tflite \
	  --baseline build/app/fashion_cbam_int8_plain.tflite --out build/app/report $(ARGS)
	cp build/app/report/report.json benchmarks/results/app_softmax.json
	"$(BIN)/python" tests/consumers/mediapipe_resizing.py benchmarks/results/mediapipe_resizing.json runs/demo
	"$(BIN)/python" -m edgecbam.benchmarks.app_table benchmarks/results docs/app.md

bench-layers: $(READY)
	"$(BIN)/edgecbam" explain runs/fashion_resnet20 --layers
	"$(BIN)/python" -m edgecbam.benchmarks.layer_table benchmarks/results docs/explain.md runs/fashion_resnet20

# Wants a quiet machine.
bench-training: $(READY)
	for set in "fashion_cbam fashion_cbam" "fashion_cbam_float32 fashion_cbam --set train.precision=float32" \
	  "resnet18_cbam resnet18_cbam $(AT)=224 --set data.channels=3 --set data.train_images=256 --set data.validation_fraction=0.02 --set train.batch_size=64"; do \
	  "$(BIN)/python" -m edgecbam.training_speed benchmarks/results/training_speed_$${set%% *}_$(AMX).json \
	    --recipe $${set#* } $(ARGS) || exit; \
	done
	"$(BIN)/python" -m edgecbam.benchmarks.training_speed_table benchmarks/results docs/training.md

bench-trust: bench-coverage bench-tools bench-sessions
	"$(BIN)/python" -m edgecbam.benchmarks.trust_table benchmarks/results docs/trust.md

# Times nothing: any machine will do.
bench-coverage: $(READY)
	"$(BIN)/python" -m edgecbam.benchmarks.simulation benchmarks/results/coverage.json $(ARGS)

# This and the next want a quiet machine. Small models, and some that take milliseconds.
bench-tools: $(READY) $(DEMO)/stage.json $(STUDY)/index.json
	"$(BIN)/python" -m edgecbam.benchmarks.against_tools benchmarks/results/against_tools.json \
	  $(TRUST_MODELS) --smallest tests/fixtures/tiny_fp32.tflite --smallest tests/fixtures/tiny_fp32.onnx $(ARGS)

bench-sessions: $(READY) $(DEMO)/stage.json
	"$(BIN)/python" -m edgecbam.benchmarks.control_sessions benchmarks/results/control_sessions.json \
	  $(DEMO)/model_int8.tflite $(SESSIONS_ARGS)

$(DEMO)/stage.json: | $(READY)
	"$(BIN)/edgecbam" run --out runs/demo --overwrite

$(STUDY)/index.json: | $(READY)
	TF_CPP_MIN_LOG_LEVEL=3 "$(BIN)/python" -m edgecbam.export.onnx_study $(STUDY)

runtime-models: $(READY)
	TF_CPP_MIN_LOG_LEVEL=3 "$(BIN)/python" -m edgecbam.export.runtime_models build/runtimes

# Under every version of a list, each in an environment of its own: 2 GB in build/runtime-envs, downloaded once.
prove-runtimes: runtime-models
	"$(BIN)/python" -m edgecbam.benchmarks.runtime_proof build/runtimes benchmarks/results/runtimes.json build/runtime-envs

# Needs root once, to unpack an Arm Python, and says which packages are missing.
prove-runtimes-arm64: runtime-models
	"$(BIN)/python" -m edgecbam.benchmarks.runtime_proof build/runtimes benchmarks/results/runtimes_arm64.json build/runtime-envs --arm64

# Needs Debian's qemu-user.
prove-saturation: $(READY)
	"$(BIN)/python" -P tests/consumers/saturation.py benchmarks/results/saturation.json

clean:
	rm -rf "$(VENV)" build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
