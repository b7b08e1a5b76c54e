"""The detectors of the TF1 and TF2 Detection Model Zoos as pipeline configurations of the OD API.

Structure, widths and depths are the zoo's: extractor, anchors, predictor, post-processing. Pictures are smaller, and classes
fewer unless asked for, since neither changes what has to grow: the walk from class layers to detections is the same.
"""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Model:
    """One row: a name of the zoo, which exporter made it, and the configuration, or why there is none."""
    name: str
    export: str
    config: str = ""
    missing: str = ""
    # Zoo models of the same structure, which differ in depth, width, picture size or training data only.
    same: tuple = ()


def message(name, **fields):
    """Text of one protobuf message: values, messages made by this function, and lists of either."""
    parts = []
    for key, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bool):
                one = str(one).lower()
            parts.append(one if isinstance(one, str) and one.startswith(key + " {") else f"{key}: {one}")
    return f"{name} {{ {' '.join(parts)} }}"


def quoted(text):
    return f"'{text}'"


def convolutions(activation="RELU_6", **more):
    return message("conv_hyperparams", activation=activation,
                   regularizer=message("regularizer", l2_regularizer=message("l2_regularizer", weight=4e-5)),
                   initializer=message("initializer", truncated_normal_initializer=message(
                       "truncated_normal_initializer", stddev=0.03)),
                   batch_norm=message("batch_norm", scale=True, decay=0.97, epsilon=0.001), **more)


def plain(name, op):
    return message(name, op=op, regularizer=message("regularizer", l2_regularizer=message("l2_regularizer", weight=0.0)),
                   initializer=message("initializer", truncated_normal_initializer=message(
                       "truncated_normal_initializer", stddev=0.01)))


def fixed(side):
    return message("image_resizer", fixed_shape_resizer=message("fixed_shape_resizer", height=side, width=side))


def padded(side):
    return message("image_resizer", keep_aspect_ratio_resizer=message(
        "keep_aspect_ratio_resizer", min_dimension=side, max_dimension=side, pad_to_max_dimension=True))


def between(least, most):
    return message("image_resizer", keep_aspect_ratio_resizer=message(
        "keep_aspect_ratio_resizer", min_dimension=least, max_dimension=most))


def suppression(name, converter, threshold=0.6, total=100, **more):
    score = 1e-8 if converter == "SIGMOID" else 0.0
    return message(name, batch_non_max_suppression=message(
        "batch_non_max_suppression", score_threshold=score, iou_threshold=threshold, max_detections_per_class=100,
        max_total_detections=total, **more), score_converter=converter)


def default_boxes(**more):
    return message("anchor_generator", ssd_anchor_generator=message(
        "ssd_anchor_generator", num_layers=6, min_scale=0.2, max_scale=0.95, aspect_ratios=[1.0, 2.0, 0.5, 3.0, 0.3333], **more))


def pyramid_boxes(scale, octaves, top=7):
    return message("anchor_generator", multiscale_anchor_generator=message(
        "multiscale_anchor_generator", min_level=3, max_level=top, anchor_scale=scale, aspect_ratios=[1.0, 2.0, 0.5],
        scales_per_octave=octaves))


def level_heads(kernel, depthwise=False):
    return message("box_predictor", convolutional_box_predictor=message(
        "convolutional_box_predictor", min_depth=0, max_depth=0, num_layers_before_predictor=0, use_dropout=False,
        kernel_size=kernel, use_depthwise=depthwise, box_code_size=4, apply_sigmoid_to_scores=False,
        conv_hyperparams=convolutions()))


def shared_head(depth, layers, kernel=3, depthwise=False, share_tower=False, hyperparams=None):
    return message("box_predictor", weight_shared_convolutional_box_predictor=message(
        "weight_shared_convolutional_box_predictor", depth=depth, class_prediction_bias_init=-4.6,
        conv_hyperparams=hyperparams or convolutions(), num_layers_before_predictor=layers, kernel_size=kernel,
        use_depthwise=depthwise, share_prediction_tower=share_tower))


def ssd(extractor, resizer, predictor, anchors, post=None, background=True, hyperparams=None, **parts):
    return message("model", ssd=message(
        "ssd", num_classes=90, add_background_class=background, encode_background_as_zeros=True,
        box_coder=message("box_coder", faster_rcnn_box_coder=message(
            "faster_rcnn_box_coder", y_scale=10.0, x_scale=10.0, height_scale=5.0, width_scale=5.0)),
        matcher=message("matcher", argmax_matcher=message(
            "argmax_matcher", matched_threshold=0.5, unmatched_threshold=0.5, force_match_for_each_row=True)),
        similarity_calculator=message("similarity_calculator", iou_similarity="iou_similarity { }"),
        anchor_generator=anchors, image_resizer=resizer, box_predictor=predictor,
        feature_extractor=message("feature_extractor", type=quoted(extractor), conv_hyperparams=hyperparams or convolutions(),
                                  override_base_feature_extractor_hyperparams=not extractor.startswith("ssd_mobiledet"), **parts),
        loss=message("loss", classification_loss=message("classification_loss", weighted_sigmoid_focal=message(
            "weighted_sigmoid_focal", alpha=0.25, gamma=2.0)), localization_loss=message(
                "localization_loss", weighted_smooth_l1="weighted_smooth_l1 { }"),
            classification_weight=1.0, localization_weight=1.0),
        normalize_loss_by_num_matches=True, post_processing=post or suppression("post_processing", "SIGMOID")))


def levels(extractor, side=320, kernel=3, depthwise=False, post=None, anchors=None, **parts):
    """One class layer for each feature map, as in the SSD paper (arXiv:1512.02325); depthwise: SSDLite."""
    if depthwise:
        parts["use_depthwise"] = True
    return ssd(extractor, fixed(side), level_heads(kernel, depthwise), anchors or default_boxes(), post, **parts)


def pyramid(extractor, side, depth=256, layers=4, depthwise=False):
    """One class layer for all levels, as in RetinaNet (arXiv:1708.02002)."""
    parts = {"use_depthwise": True} if depthwise else {}
    fpn = message("fpn", min_level=3, max_level=7, additional_layer_depth=depth)
    return ssd(extractor, fixed(side), shared_head(depth, layers, depthwise=depthwise), pyramid_boxes(4.0, 2), fpn=fpn, **parts)


def efficientdet(backbone, side, filters, repeats, layers):
    hyperparams = convolutions("SWISH", force_use_bias=True)
    bifpn = message("bifpn", min_level=3, max_level=7, num_iterations=repeats, num_filters=filters, combine_method=quoted(
        "fast_attention" if backbone < 6 else "sum"))
    return ssd(f"ssd_efficientnet-b{backbone}_bifpn_keras", padded(side),
               shared_head(filters, layers, depthwise=True, hyperparams=hyperparams), pyramid_boxes(4.0, 3),
               suppression("post_processing", "SIGMOID", 0.5), background=False, hyperparams=hyperparams, bifpn=bifpn)


def second_stage(shared=False, masks=False):
    more = {}
    if masks:
        # A depth of 0 asks the API to derive it from the number of classes, which an oracle must not.
        more = dict(predict_instance_masks=True, mask_height=33, mask_width=33, mask_prediction_conv_depth=64,
                    mask_prediction_num_conv_layers=4, conv_hyperparams=plain("conv_hyperparams", "CONV"))
    return message("second_stage_box_predictor", mask_rcnn_box_predictor=message(
        "mask_rcnn_box_predictor", use_dropout=False, fc_hyperparams=plain("fc_hyperparams", "FC"),
        share_box_across_classes=shared, **more))


def position_sensitive():
    return message("second_stage_box_predictor", rfcn_box_predictor=message(
        "rfcn_box_predictor", conv_hyperparams=plain("conv_hyperparams", "CONV"), crop_height=18, crop_width=18,
        num_spatial_bins_height=3, num_spatial_bins_width=3))


def two_stage(extractor, resizer, predictor=None, stride=16, crop=14, pool=2, masks=False, proposals=50, total=100, **more):
    """Faster R-CNN (arXiv:1506.01497) and what grew from it. Fewer proposals than the zoo's 300: they are rows, not structure."""
    parts = {} if extractor.endswith("_keras") else {"first_stage_features_stride": stride}
    if masks:
        more |= dict(number_of_stages=3, second_stage_mask_prediction_loss_weight=4.0)
    if stride == 8:
        more |= dict(first_stage_atrous_rate=2)
    return message("model", faster_rcnn=message(
        "faster_rcnn", num_classes=90, image_resizer=resizer,
        feature_extractor=message("feature_extractor", type=quoted(extractor), **parts),
        first_stage_anchor_generator=message("first_stage_anchor_generator", grid_anchor_generator=message(
            "grid_anchor_generator", scales=[0.25, 0.5, 1.0, 2.0], aspect_ratios=[0.5, 1.0, 2.0], height_stride=stride,
            width_stride=stride)),
        first_stage_box_predictor_conv_hyperparams=plain("first_stage_box_predictor_conv_hyperparams", "CONV"),
        first_stage_nms_score_threshold=0.0, first_stage_nms_iou_threshold=0.7, first_stage_max_proposals=proposals,
        initial_crop_size=crop, maxpool_kernel_size=pool, maxpool_stride=pool,
        second_stage_box_predictor=predictor or second_stage(masks=masks),
        second_stage_post_processing=suppression("second_stage_post_processing", "SOFTMAX", total=total), **more))


def center_net(extractor, side, **more):
    """CenterNet (arXiv:1904.07850): one class layer over a heatmap."""
    return message("model", center_net=message(
        "center_net", num_classes=90, feature_extractor=message("feature_extractor", type=quoted(extractor)),
        image_resizer=padded(side),
        object_detection_task=message("object_detection_task", task_loss_weight=1.0, offset_loss_weight=1.0,
                                      scale_loss_weight=0.1, localization_loss=ABSOLUTE),
        object_center_params=message("object_center_params", object_center_loss_weight=1.0, min_box_overlap_iou=0.7,
                                     max_box_predictions=100, classification_loss=HEATMAP), **more))


# Where the configuration names a file of keypoints, this stands for its path.
KEYPOINT_FILE = "@keypoints@"
KEYPOINT_LABELS = "item { id: 1 name: 'person' " + " ".join(
    f"keypoints {{ id: {n} label: '{name}' }}" for n, name in enumerate(("nose", "left_eye", "right_eye"))) + " }\n"
HEATMAP = message("classification_loss", penalty_reduced_logistic_focal_loss=message(
    "penalty_reduced_logistic_focal_loss", alpha=2.0, beta=4.0))
ABSOLUTE = message("localization_loss", l1_localization_loss="l1_localization_loss { }")


def with_keypoints(extractor, side):
    """The same with a task of keypoints beside the boxes."""
    return center_net(extractor, side, keypoint_label_map_path=quoted(KEYPOINT_FILE), keypoint_estimation_task=message(
        "keypoint_estimation_task", task_name=quoted("human_pose"), task_loss_weight=1.0, keypoint_class_name=quoted("person"),
        loss=message("loss", classification_loss=HEATMAP, localization_loss=ABSOLUTE)))


NO_QUANTIZATION = "its fake quantization was inserted by tensorflow.contrib.quantize, which no TensorFlow 2 has"
STATIC = dict(post=suppression("post_processing", "SIGMOID", use_static_shapes=True))

MODELS = (
    # TF1: single stage
    Model("ssd_mobilenet_v1_coco", "TF1", levels("ssd_mobilenet_v1", 300, 1), same=("ssd_mobilenet_v1_0.75_depth_coco",)),
    Model("ssd_mobilenet_v1_quantized_coco", "TF1", missing=NO_QUANTIZATION,
          same=("ssd_mobilenet_v1_0.75_depth_quantized_coco", "ssd_mobilenet_v2_quantized_coco",
                "facessd_mobilenet_v2_quantized_open_image_v4")),
    Model("ssd_mobilenet_v1_ppn_coco", "TF1", ssd(
        "ssd_mobilenet_v1_ppn", fixed(300), shared_head(512, 1, 1, share_tower=True),
        default_boxes(reduce_boxes_in_lowest_layer=False))),
    Model("ssd_mobilenet_v1_fpn_coco", "TF1", pyramid("ssd_mobilenet_v1_fpn", 320)),
    Model("ssd_resnet_50_fpn_coco", "TF1", pyramid("ssd_resnet50_v1_fpn", 256), same=("ssd_resnet_101_fpn_oidv4",)),
    Model("ssd_mobilenet_v2_coco", "TF1", levels("ssd_mobilenet_v2", 300), same=("ssd_mobilenet_v2_oid_v4",)),
    Model("ssdlite_mobilenet_v2_coco", "TF1", levels("ssd_mobilenet_v2", 300, depthwise=True)),
    Model("ssd_inception_v2_coco", "TF1", levels("ssd_inception_v2", 300,
                                                 anchors=default_boxes(reduce_boxes_in_lowest_layer=True))),
    Model("ssd_mobilenet_v2_mnasfpn_coco", "TF1", ssd(
        "ssd_mobilenet_v2_mnasfpn", fixed(320), shared_head(64, 4, depthwise=True, share_tower=True), pyramid_boxes(3.0, 3, 6),
        fpn=message("fpn", min_level=3, max_level=6, additional_layer_depth=48))),
    Model("ssd_mobilenet_v3_large_coco", "TF1", levels("ssd_mobilenet_v3_large", 320, depthwise=True, **STATIC)),
    Model("ssd_mobilenet_v3_small_coco", "TF1", levels("ssd_mobilenet_v3_small", 320, depthwise=True, **STATIC)),
    Model("ssd_mobilenet_edgetpu_coco", "TF1", levels("ssd_mobilenet_edgetpu", 320, depthwise=True, **STATIC)),
    Model("ssd_mobiledet_cpu_coco", "TF1", levels("ssd_mobiledet_cpu", 320, depthwise=True, **STATIC)),
    Model("ssd_mobiledet_edgetpu_coco", "TF1", levels("ssd_mobiledet_edgetpu", 320, depthwise=True, **STATIC)),
    Model("ssd_mobiledet_dsp_coco", "TF1", levels("ssd_mobiledet_dsp", 320, depthwise=True, **STATIC)),
    # TF1: two stages
    Model("faster_rcnn_inception_v2_coco", "TF1", two_stage("faster_rcnn_inception_v2", between(160, 320))),
    Model("faster_rcnn_resnet50_coco", "TF1", two_stage("faster_rcnn_resnet50", between(160, 320)),
          same=("faster_rcnn_resnet50_lowproposals_coco", "faster_rcnn_resnet50_fgvc")),
    Model("faster_rcnn_resnet101_coco", "TF1", two_stage("faster_rcnn_resnet101", between(160, 320)),
          same=("faster_rcnn_resnet101_lowproposals_coco", "faster_rcnn_resnet101_kitti", "faster_rcnn_resnet101_fgvc",
                "faster_rcnn_resnet101_ava_v2.1")),
    Model("rfcn_resnet101_coco", "TF1", two_stage("faster_rcnn_resnet101", between(160, 320), position_sensitive())),
    Model("faster_rcnn_inception_resnet_v2_atrous_coco", "TF1", two_stage(
        "faster_rcnn_inception_resnet_v2", between(160, 320), stride=8, crop=17, pool=1),
        same=("faster_rcnn_inception_resnet_v2_atrous_lowproposals_coco", "faster_rcnn_inception_resnet_v2_atrous_oid")),
    Model("faster_rcnn_nas", "TF1", two_stage("faster_rcnn_nas", fixed(256), crop=17, pool=1),
          same=("faster_rcnn_nas_lowproposals_coco",)),
    Model("mask_rcnn_inception_v2_coco", "TF1", two_stage("faster_rcnn_inception_v2", between(160, 320), masks=True)),
    Model("mask_rcnn_resnet50_atrous_coco", "TF1", two_stage(
        "faster_rcnn_resnet50", between(160, 320), stride=8, masks=True), same=("mask_rcnn_resnet101_atrous_coco",)),
    Model("mask_rcnn_inception_resnet_v2_atrous_coco", "TF1", two_stage(
        "faster_rcnn_inception_resnet_v2", between(160, 320), stride=8, crop=17, pool=1, masks=True)),
    # TF2: single stage
    Model("ssd_mobilenet_v2_320x320_coco17", "TF2", levels("ssd_mobilenet_v2_keras", 300)),
    Model("ssd_mobilenet_v1_fpn_640x640_coco17", "TF2", pyramid("ssd_mobilenet_v1_fpn_keras", 320)),
    Model("ssd_mobilenet_v2_fpnlite_320x320_coco17", "TF2", pyramid("ssd_mobilenet_v2_fpn_keras", 320, 128, 4, True),
          same=("ssd_mobilenet_v2_fpnlite_640x640_coco17",)),
    Model("ssd_resnet50_v1_fpn_640x640_coco17", "TF2", pyramid("ssd_resnet50_v1_fpn_keras", 256),
          same=("ssd_resnet50_v1_fpn_1024x1024_coco17",)),
    Model("ssd_resnet101_v1_fpn_640x640_coco17", "TF2", pyramid("ssd_resnet101_v1_fpn_keras", 256),
          same=("ssd_resnet101_v1_fpn_1024x1024_coco17",)),
    Model("ssd_resnet152_v1_fpn_640x640_coco17", "TF2", pyramid("ssd_resnet152_v1_fpn_keras", 256),
          same=("ssd_resnet152_v1_fpn_1024x1024_coco17",)),
    *(Model(f"efficientdet_d{n}_coco17", "TF2", efficientdet(n, 256, *sizes)) for n, sizes in enumerate((
        (64, 3, 3), (88, 4, 3), (112, 5, 3), (160, 6, 4), (224, 7, 4), (288, 7, 4)))),
    # D7 is D6 with larger pictures and anchors.
    Model("efficientdet_d6_coco17", "TF2", efficientdet(6, 256, 384, 8, 5), same=("efficientdet_d7_coco17",)),
    # TF2: two stages
    *(Model(f"faster_rcnn_resnet{depth}_v1_640x640_coco17", "TF2", two_stage(
        f"faster_rcnn_resnet{depth}_keras", padded(192), second_stage(shared=True), use_static_shapes=True,
        use_matmul_crop_and_resize=True, clip_anchors_to_image=True, use_matmul_gather_in_matcher=True),
        same=(f"faster_rcnn_resnet{depth}_v1_1024x1024_coco17",)) for depth in (50, 101, 152)),
    *(Model(f"faster_rcnn_resnet{depth}_v1_800x1333_coco17", "TF2", two_stage(
        f"faster_rcnn_resnet{depth}_keras", between(160, 320))) for depth in (50, 101, 152)),
    Model("faster_rcnn_inception_resnet_v2_640x640_coco17", "TF2", two_stage(
        "faster_rcnn_inception_resnet_v2_keras", fixed(192), second_stage(), crop=17, pool=1),
        same=("faster_rcnn_inception_resnet_v2_1024x1024_coco17",)),
    Model("mask_rcnn_inception_resnet_v2_1024x1024_coco17", "TF2", two_stage(
        "faster_rcnn_inception_resnet_v2_keras", fixed(192), crop=17, pool=1, masks=True, resize_masks=False)),
    # TF2: heatmaps
    Model("centernet_hourglass104_512x512_coco17", "TF2", center_net("hourglass_104", 256),
          same=("centernet_hourglass104_1024x1024_coco17",)),
    Model("centernet_resnet50_v1_fpn_512x512_coco17", "TF2", center_net("resnet_v1_50_fpn", 256)),
    Model("centernet_resnet101_v1_fpn_512x512_coco17", "TF2", center_net("resnet_v1_101_fpn", 256)),
    Model("centernet_resnet50_v2_512x512_coco17", "TF2", center_net("resnet_v2_50", 256)),
    Model("centernet_mobilenet_v2_fpn_512x512_coco17", "TF2", center_net("mobilenet_v2_fpn_sep_conv", 256)),
    Model("centernet_resnet50_v1_fpn_512x512_kpts_coco17", "TF2", with_keypoints("resnet_v1_50_fpn", 256),
          same=("centernet_resnet50_v2_512x512_kpts_coco17", "centernet_hourglass104_512x512_kpts_coco17",
                "centernet_hourglass104_1024x1024_kpts_coco17", "centernet_mobilenet_v2_fpn_512x512_kpts_coco17")),
)
