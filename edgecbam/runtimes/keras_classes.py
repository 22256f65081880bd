"""Which classes a .keras file may name: layers that compute and nothing else, of Keras and of edgecbam.

Keras' safe mode refuses byte code, but a TFOpLambda calls any function of TensorFlow when the file is opened, which may
write a file or load a library; other layers read the files that they name. So the list is of what is allowed.
"""

from collections.abc import Mapping
from typing import Any

_LAYERS = """
Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D
AveragePooling2D AveragePooling3D BatchNormalization Bidirectional CategoryEncoding CenterCrop Concatenate Conv1D
Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D
Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense Embedding Flatten GRU
GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization Identity InputLayer LSTM LSTMCell
LayerNormalization LeakyReLU LocallyConnected1D LocallyConnected2D Masking MaxPooling1D MaxPooling2D MaxPooling3D
Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute RNN RandomBrightness RandomContrast RandomCrop
RandomFlip RandomHeight RandomRotation RandomTranslation RandomWidth RandomZoom ReLU RepeatVector Rescaling Reshape
Resizing SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D
SpatialDropout3D SpectralNormalization StackedRNNCells Subtract ThresholdedReLU TimeDistributed UnitNormalization
UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
_OTHERS = """
Functional Model Sequential Policy InputSpec Constant GlorotNormal GlorotUniform HeNormal HeUniform LecunNormal
LecunUniform Ones Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros L1 L1L2 L2
OrthogonalRegularizer MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm
__tensor__ __numpy__ __bytes__ __ellipsis__ __slice__ __tuple__
"""
_KERAS = frozenset((_LAYERS + _OTHERS).split())
_OURS = frozenset(("ChannelMax", "ChannelMean", "CountedDropout", "WindowMean"))
_OPS = ("TFOpLambda", "SlicingOpLambda")
# arithmetic that an operator in a Python expression of layers becomes
_ARITHMETIC = """
__operators__.add __operators__.getitem abs cast clip_by_value concat expand_dims identity math.abs math.add math.divide
math.exp math.log math.maximum math.minimum math.multiply math.negative math.pow math.realdiv math.reduce_max
math.reduce_mean math.reduce_min math.reduce_sum math.rsqrt math.sigmoid math.sqrt math.square math.subtract math.tanh
math.truediv nn.elu nn.gelu nn.leaky_relu nn.relu nn.relu6 nn.selu nn.sigmoid nn.silu nn.softmax nn.softplus nn.swish
nn.tanh reshape split squeeze stack transpose unstack
"""
_FUNCTIONS = frozenset(_ARITHMETIC.split())


def is_allowed(package: str, name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a class may be made when a file is opened.

    Args:
        package: the first part of its module: ``"keras"``, ``"edgecbam"`` or another.
        name: of the class.
        entry: the part of the configuration that names it.
    """
    if package == "edgecbam":
        return name in _OURS
    if package != "keras":
        return False
    if name in _OPS:
        inner = entry.get("config")
        return isinstance(inner, dict) and str(inner.get("function")) in _FUNCTIONS
    return name in _KERAS
