//! The paths of a configuration.

use super::RunConfig;
use std::path::{Path, PathBuf};

impl RunConfig {
    /// What the run reads: `model.source`, `distill.teacher`, `data.path`, `mixer.reference_file`.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let teacher = self.distill.as_mut().and_then(|distill| distill.teacher.as_mut());
        let files =
            [self.model.source.as_mut(), teacher, self.mixer.reference_file.as_mut(), Some(&mut self.data.path)];
        files.into_iter().flatten()
    }

    /// Makes them absolute: a run may be resumed from another folder than it was started in.
    pub fn root_paths(&mut self, working_directory: &Path) {
        for path in self.paths_mut().filter(|path| !path.as_os_str().is_empty()) {
            // Without `.` parts; links and `..` stay as they were given.
            *path = working_directory.join(path.as_path()).components().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;
    use std::path::Path;

    #[test]
    fn relative_paths_are_rooted_and_absolute_ones_stay() {
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = '/m'\n[data]\npath = './d/../e'\n\
                    [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 0.1\n";
        let mut config = parse(text, "test", &[]).unwrap();
        config.root_paths(Path::new("/home"));
        assert_eq!(config.data.path, Path::new("/home/d/../e"));
        assert_eq!(config.model.source.as_deref(), Some(Path::new("/m")));
        assert_eq!(config.run.directory, Path::new("a"), "where it is told by --resume");
    }
}
