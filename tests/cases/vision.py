"""Cases of models that read pictures: every class of networks, with what its toy must have."""

from tests.cases.kinds import VisionCase

CASES = (
    VisionCase("classifier", "ViTForImageClassification", pairs=2),
    VisionCase("classifier", "DeiTForImageClassification", pairs=2),
    VisionCase("classifier", "CLIPForImageClassification", pairs=2),
    VisionCase("classifier", "Dinov2ForImageClassification", pairs=2),
    VisionCase("classifier", "SiglipForImageClassification", pairs=2),
    VisionCase("classifier", "SwinForImageClassification", pairs=2),
    VisionCase("classifier", "ResNetForImageClassification", pairs=0),
    VisionCase("classifier", "ConvNextForImageClassification", pairs=2),
    VisionCase("classifier", "ConvNextV2ForImageClassification", pairs=2),
    VisionCase("recogniser", "CosFaceNetwork", pairs=2),
    VisionCase("detector", "DetrForObjectDetection", pairs=4),
    VisionCase("detector", "YolosForObjectDetection", pairs=2),
    VisionCase("detector", "DeformableDetrForObjectDetection", pairs=4),
    VisionCase("detector", "RTDetrForObjectDetection", pairs=3),
)
