//! What the files beside a model say of it.

use std::path::Path;

/// `num_classes` of the `pipeline.config` in a MODEL folder or the folder above it; `None` when there is none.
pub fn declared_classes(model: &Path) -> Option<u32> {
    [Some(model), model.parent()].into_iter().flatten().find_map(|dir| {
        let text = std::fs::read_to_string(dir.join("pipeline.config")).ok()?;
        text.lines().find_map(|line| line.trim().strip_prefix("num_classes:")?.trim().parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_beside_or_above_says_how_many_classes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("saved_model")).unwrap();
        std::fs::write(dir.path().join("pipeline.config"), "model {\n  ssd {\n    num_classes: 90\n")
            .unwrap();
        assert_eq!(declared_classes(&dir.path().join("saved_model")), Some(90));
    }
}
