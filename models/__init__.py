"""Networks: x [B, 3, H, W] -> logits [B].  They know no data, and import only torch, torchvision and safetensors."""

from models.create import MODEL_NAMES, create_model
from models.zoo import PretrainedUnavailable

__all__ = ["MODEL_NAMES", "PretrainedUnavailable", "create_model"]
