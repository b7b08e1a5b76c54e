//! COCO's measures.
