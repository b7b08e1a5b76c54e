"""The default model's backbone as a Faster R-CNN's: the first stage sees its maps of stride 16, the second the rest of it.

The OD API has no such extractor for TensorFlow 2, but takes any; what it builds around it is the zoo's Faster R-CNN.
"""
import compat  # noqa: F401  (before the OD API)
import tensorflow as tf
from object_detection.builders import model_builder
from object_detection.meta_architectures import faster_rcnn_meta_arch
from object_detection.models.keras_models import mobilenet_v2
from object_detection.utils import model_util

SPLIT = "block_13_expand_relu"


class MobileNetV2(faster_rcnn_meta_arch.FasterRCNNKerasFeatureExtractor):
    """float32 [n, height, width, 3] in 0..255 -> [n, height / 16, width / 16, 576]; of a crop [n, 7, 7, 576] -> [n, 4, 4, 1280]."""

    def __init__(self, is_training, first_stage_features_stride=16, batch_norm_trainable=False, weight_decay=0.0):
        super().__init__(is_training, first_stage_features_stride, batch_norm_trainable, weight_decay)
        self.backbone = None

    def preprocess(self, resized_inputs):
        return resized_inputs * (2 / 255) - 1

    def whole(self):
        if self.backbone is None:
            self.backbone = mobilenet_v2.mobilenet_v2(batchnorm_training=self._train_batch_norm, weights=None, include_top=False)
        return self.backbone

    def get_proposal_feature_extractor_model(self, name=None):
        with tf.name_scope(name):
            return tf.keras.Model(self.whole().inputs, self.whole().get_layer(SPLIT).output)

    def get_box_classifier_feature_extractor_model(self, name=None):
        with tf.name_scope(name):
            return model_util.extract_submodel(
                model=self.whole(), inputs=self.whole().get_layer(SPLIT).output, outputs=self.whole().get_layer("out_relu").output)


model_builder.FASTER_RCNN_KERAS_FEATURE_EXTRACTOR_CLASS_MAP["faster_rcnn_mobilenet_v2_keras"] = MobileNetV2
