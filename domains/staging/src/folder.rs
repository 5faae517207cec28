//! A folder on its way to its final place.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::leftovers::{LOCK, Locked, OUTPUT, discard, prefix_of, remove_left_of, try_lock};
use crate::live::{Registered, register};
use crate::{Error, Result, parent_of, refuse_taken, sync, sync_tree};

/// Where a folder that is being replaced lies for a moment, where names cannot be swapped.
const OLD: &str = "old";

/// A folder being written beside its final place. Removed when dropped unpublished.
#[derive(Debug)]
pub struct StagedFolder {
    final_dir: PathBuf,
    /// `.NAME.staging-XXXXXX`: private to its owner, and holds the lock beside the folder itself.
    holder: Registered,
    output: PathBuf,
    _lock: Option<File>,
}

impl StagedFolder {
    /// Begins the folder `final_dir`, makes its parents, and removes what programs that are gone have left there.
    ///
    /// # Errors
    /// [`Error::Taken`] when `final_dir` is not free, [`Error::Io`] when nothing can be made beside it.
    pub fn begin(final_dir: &Path) -> Result<Self> {
        refuse_taken(final_dir)?;
        Self::beside(final_dir)
    }

    /// Begins a folder that takes the place of `final_dir` when it is done; until then that one stays as it is.
    ///
    /// # Errors
    /// [`Error::Io`] when nothing can be made beside it.
    pub fn begin_replacement(final_dir: &Path) -> Result<Self> {
        Self::beside(final_dir)
    }

    /// A folder for what is needed only until this is dropped, in the system's place for such; what programs that are
    /// gone have left of that name is removed.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn scratch(name: &str) -> Result<Self> {
        Self::beside(&std::env::temp_dir().join(name))
    }

    fn beside(final_dir: &Path) -> Result<Self> {
        let parent = parent_of(final_dir);
        fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
        remove_left_of(final_dir);
        let failed = || Error::io("create a folder in", &parent);
        let made = register(|| {
            let (holder, lock) = make_holder(final_dir, &parent)?;
            Ok((holder.clone(), (holder.join(OUTPUT), lock)))
        });
        let (holder, (output, lock)) = made.map_err(failed())?;
        let staged = Self { final_dir: final_dir.to_path_buf(), holder, output, _lock: lock };
        // The folder itself has the usual permissions.
        fs::create_dir(&staged.output).map_err(failed())?;
        Ok(staged)
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.output
    }

    /// Where it will appear.
    pub fn final_dir(&self) -> &Path {
        &self.final_dir
    }

    /// Makes everything the owner's to change, flushes it, and moves the folder to its final place, which is returned.
    ///
    /// # Errors
    /// The place was taken meanwhile, or the system refuses; nothing is left then.
    pub fn publish(self) -> Result<PathBuf> {
        let final_dir = self.final_dir.clone();
        make_writable(&self.output)?;
        sync_tree(&self.output)?;
        refuse_taken(&final_dir)?;
        // Not every system renames onto an empty folder.
        match fs::remove_dir(&final_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("replace", &final_dir)(error))?,
            _ => {}
        }
        fs::rename(&self.output, &final_dir).map_err(Error::io("move the finished folder to", &final_dir))?;
        drop(self);
        sync(&parent_of(&final_dir))?;
        Ok(final_dir)
    }

    /// The same in the place of the folder that is there, which is removed afterwards. One of the two is there at any time where
    /// the file system can swap names; elsewhere, for the moment between two renames, neither.
    ///
    /// # Errors
    /// The system refuses; the folder that was there is then still there.
    pub fn replace(self) -> Result<PathBuf> {
        let final_dir = self.final_dir.clone();
        make_writable(&self.output)?;
        sync_tree(&self.output)?;
        let swapped = rustix::fs::renameat_with(CWD, &self.output, CWD, &final_dir, RenameFlags::EXCHANGE);
        if swapped.is_err() {
            self.rename_both()?;
        }
        // With what was there before.
        drop(self);
        sync(&parent_of(&final_dir))?;
        Ok(final_dir)
    }

    /// What is there goes aside, this folder to its place.
    fn rename_both(&self) -> Result<()> {
        let failed = || Error::io("replace", &self.final_dir);
        let old = self.holder.path().join(OLD);
        fs::rename(&self.final_dir, &old).map_err(failed())?;
        fs::rename(&self.output, &self.final_dir).map_err(|error| {
            let _ = fs::rename(&old, &self.final_dir);
            failed()(error)
        })
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        // A failure is not worth more than the error that led here; the next program tries again.
        let _ = discard(self.holder.path());
    }
}

/// The temporary sibling with its lock.
fn make_holder(final_dir: &Path, parent: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let prefix = prefix_of(final_dir);
    loop {
        let holder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?.keep();
        match take_lock(&holder.join(LOCK)) {
            Ok(Some(lock)) => return Ok((holder, lock)),
            // Somebody who cleans up was faster than the lock; the next one has another name.
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                let _ = fs::remove_dir_all(&holder);
                return Err(error);
            }
        }
    }
}

/// The lock file, open; inside `None` where there are no locks. `None` when it was lost.
fn take_lock(path: &Path) -> io::Result<Option<Option<File>>> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    Ok(match try_lock(&file, path)? {
        Locked::Ours => Some(Some(file)),
        Locked::Unsupported => Some(None),
        Locked::Lost => None,
    })
}

/// Files that were copied may have come with a mode that their source had for its own reasons (a cache, a shared
/// folder); what is published can be moved, changed and removed by its owner.
fn make_writable(path: &Path) -> Result<()> {
    let about = fs::symlink_metadata(path).map_err(Error::io("look at", path))?;
    if about.file_type().is_symlink() {
        return Ok(());
    }
    let needed = if about.is_dir() { 0o700 } else { 0o600 };
    if about.mode() & needed != needed {
        let mode = Permissions::from_mode(about.mode() & 0o7777 | needed);
        fs::set_permissions(path, mode).map_err(Error::io("set the permissions of", path))?;
    }
    if about.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
            make_writable(&entry.map_err(Error::io("list", path))?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_published_folder_appears_whole_and_alone() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("deep/out");
        let staged = StagedFolder::begin(&target).unwrap();
        fs::create_dir(staged.path().join("sub")).unwrap();
        fs::write(staged.path().join("sub/a"), b"1").unwrap();
        assert!(!target.exists());
        assert_eq!(staged.publish().unwrap(), target);
        assert_eq!(fs::read(target.join("sub/a")).unwrap(), b"1");
        assert_eq!(entries(&root.path().join("deep")), ["out"]);
        // Private to the user only if the umask says so, unlike a temporary folder.
        let reference = root.path().join("reference");
        fs::create_dir(&reference).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&reference));
    }

    #[test]
    fn a_replacement_takes_the_place_of_what_was_there_and_one_that_is_dropped_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), b"1").unwrap();
        let dropped = StagedFolder::begin_replacement(&target).unwrap();
        fs::write(dropped.path().join("new"), b"2").unwrap();
        drop(dropped);
        assert_eq!(entries(&target), ["old"]);
        let staged = StagedFolder::begin_replacement(&target).unwrap();
        fs::write(staged.path().join("new"), b"2").unwrap();
        assert_eq!(staged.replace().unwrap(), target);
        assert_eq!((entries(&target), entries(root.path())), (vec!["new".to_string()], vec!["out".to_string()]));
    }

    #[test]
    fn where_names_cannot_be_swapped_two_renames_do_it_and_a_failure_puts_the_old_folder_back() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), b"1").unwrap();
        let lost = StagedFolder::begin_replacement(&target).unwrap();
        fs::remove_dir(lost.path()).unwrap();
        assert!(lost.rename_both().is_err());
        drop(lost);
        assert_eq!(entries(&target), ["old"]);
        let staged = StagedFolder::begin_replacement(&target).unwrap();
        fs::write(staged.path().join("new"), b"2").unwrap();
        staged.rename_both().unwrap();
        drop(staged);
        assert_eq!((entries(&target), entries(root.path())), (vec!["new".to_string()], vec!["out".to_string()]));
    }

    #[test]
    fn an_unpublished_folder_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let staged = StagedFolder::begin(&root.path().join("out")).unwrap();
        fs::write(staged.path().join("a"), b"1").unwrap();
        drop(staged);
        assert!(entries(root.path()).is_empty());
    }

    #[test]
    fn what_is_there_is_never_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        fs::create_dir(&target).unwrap();
        let staged = StagedFolder::begin(&target).unwrap();
        fs::write(target.join("mine"), b"1").unwrap();
        assert!(matches!(StagedFolder::begin(&target).unwrap_err(), Error::Taken { .. }));
        assert!(matches!(staged.publish().unwrap_err(), Error::Taken { .. }));
        assert_eq!(entries(root.path()), ["out"]);
        let inside = StagedFolder::begin(&target.join("mine")).unwrap_err();
        assert!(matches!(inside, Error::Taken { .. }), "a file");
    }

    #[test]
    fn what_a_dead_program_left_goes_with_the_next_one_and_a_living_one_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let alive = StagedFolder::begin(&target).unwrap();
        let dead = root.path().join(".out.staging-dead");
        fs::create_dir_all(dead.join(OUTPUT).join("sub")).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(dead.join(OUTPUT).join("sub/half"), "x").unwrap();
        // Of another place, and of a program that knows no locks.
        let others = [".other.staging-dead", ".out.staging-foreign"].map(|name| root.path().join(name));
        fs::create_dir_all(others[0].join(OUTPUT)).unwrap();
        fs::write(others[0].join(LOCK), "").unwrap();
        fs::create_dir_all(others[1].join("model")).unwrap();
        let second = StagedFolder::begin(&target).unwrap();
        assert!(!dead.exists());
        assert!(alive.path().is_dir() && second.path().is_dir() && others.iter().all(|path| path.exists()));
        alive.publish().unwrap();
    }

    #[test]
    fn what_came_read_only_is_the_owners_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let staged = StagedFolder::begin(&target).unwrap();
        fs::create_dir(staged.path().join("sub")).unwrap();
        let file = staged.path().join("sub/tokenizer.json");
        fs::write(&file, b"{}").unwrap();
        std::os::unix::fs::symlink("/nowhere", staged.path().join("link")).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
        fs::set_permissions(staged.path().join("sub"), Permissions::from_mode(0o555)).unwrap();
        staged.publish().unwrap();
        let mode = |name: &str| fs::metadata(target.join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("sub"), mode("sub/tokenizer.json")), (0o755, 0o644));
    }

    #[test]
    fn the_longest_name_and_a_bare_one_can_be_written() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("x".repeat(255));
        assert_eq!(StagedFolder::begin(&target).unwrap().publish().unwrap(), target);
        assert_eq!(parent_of(Path::new("out")), Path::new("."));
    }
}
