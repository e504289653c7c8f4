"""Networks: x [B, 3, H, W] -> logits [B].  They know no data, and import only torch, torchvision and safetensors."""

from models.create import MODEL_NAMES, check_model, create_model
from models.zoo import PretrainedUnavailable

__all__ = ["MODEL_NAMES", "PretrainedUnavailable", "check_model", "create_model"]
