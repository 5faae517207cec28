//! A file that readers see with its old or its new content, never with a part.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::leftovers::{Locked, prefix_of, remove_left_of, try_lock};
use crate::live::{Registered, register};
use crate::{Error, Result, parent_of, sync};

/// Writes `path` by `write`, which is given an empty file; `path` changes only when all of it is on the disk. What
/// programs that are gone have left on their way to `path` is removed.
///
/// # Errors
/// Those of `write`, and [`Error::Io`] when the system refuses; `path` is as it was then.
pub fn write_whole<E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let parent = parent_of(path);
    remove_left_of(path);
    let (registered, mut temporary) = begin(path, &parent).map_err(Error::io("write", path))?;
    write(temporary.as_file_mut())?;
    temporary.as_file().sync_all().map_err(Error::io("flush", path))?;
    let renamed = temporary.persist(path).map_err(|error| error.error);
    renamed.map_err(Error::io("rename the finished file to", path))?;
    drop(registered);
    Ok(sync(&parent)?)
}

/// Whether [`write_whole`] could write `path` once its missing folders are made: a temporary file is made and removed in
/// the nearest folder that is there.
///
/// # Errors
/// No file can be made there.
pub fn ensure_writable(path: &Path) -> Result<()> {
    let parent = std::path::absolute(parent_of(path)).map_err(Error::io("resolve", path))?;
    let folder = parent.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    begin(path, folder).map_err(Error::io("create a file in", folder))?;
    Ok(())
}

/// A temporary file for `path` in `folder`, locked where there are locks.
fn begin(path: &Path, folder: &Path) -> io::Result<(Registered, NamedTempFile)> {
    let prefix = prefix_of(path);
    register(|| {
        loop {
            let mut builder = tempfile::Builder::new();
            // This will be the file itself, so the umask decides who may read it.
            builder.prefix(&prefix).permissions(Permissions::from_mode(0o666));
            let temporary = builder.tempfile_in(folder)?;
            match try_lock(temporary.as_file(), temporary.path())? {
                // Somebody who cleans up was faster than the lock.
                Locked::Lost => continue,
                Locked::Ours | Locked::Unsupported => return Ok((temporary.path().to_path_buf(), temporary)),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    fn text(path: &Path, text: &str) -> Result<()> {
        write_whole(path, |file| file.write_all(text.as_bytes()).map_err(Error::io("write", path)))
    }

    #[test]
    fn a_write_replaces_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.json");
        text(&path, "old").unwrap();
        text(&path, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let failed = write_whole(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Error::Taken { path: path.clone() })
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_dead_program_left_goes_with_the_next_one_and_a_living_one_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.json");
        let dead = root.path().join(".a.json.staging-dead");
        fs::write(&dead, "half").unwrap();
        let others = ["a.json.staging-x", ".b.json.staging-dead"].map(|name| root.path().join(name));
        others.iter().for_each(|path| fs::write(path, "mine").unwrap());
        write_whole(&path, |file| {
            assert!(!dead.exists());
            // A second writer of the same file, in the middle of the first.
            text(&path, "second")?;
            file.write_all(b"first").map_err(Error::io("write", &path))
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert!(others.iter().all(|path| path.exists()));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_and_no_temporary_one() {
        use std::error::Error as _;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("no/file.json");
        let error = text(&path, "x").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}", path.display()));
        let cause = error.source().unwrap().to_string();
        assert!(cause.starts_with("No such file") && !cause.contains(".staging-"), "{cause}");
        ensure_writable(&path).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "asking leaves nothing");
        fs::write(root.path().join("no"), b"a file").unwrap();
        let error = ensure_writable(&path).unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(error.to_string().contains("no") && !cause.contains(".staging-"), "{error}: {cause}");
    }
}
