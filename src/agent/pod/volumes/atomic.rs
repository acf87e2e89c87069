//! A set of files that changes all at once, as a kubelet's atomic writer does
//! (pkg/volume/util/atomic_writer.go): a reader sees all of the old or all of the new.
//!
//! ```text
//! volume/..2026_11_23_10_00_00.123456789/dir/file     the files
//! volume/..data -> ..2026_11_23_10_00_00.123456789     swapped by rename
//! volume/dir -> ..data/dir                             what users see
//! ```

use super::{VolumeError, own, set_mode};
use crate::model::DesiredFile;
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
/// For a group's volume: its members may read (pkg/volume/volume_linux.go, roMask and execMask).
const GROUP_READS: u32 = 0o440;
const GROUP_ENTERS: u32 = 0o2550;

/// Makes the volume hold these files and no others. Equal content is not written again.
pub(super) fn write(volume: &Path, files: &[DesiredFile], group: Option<i64>) -> Result<(), VolumeError> {
    let mut wanted: BTreeMap<PathBuf, &DesiredFile> = BTreeMap::new();
    for file in files {
        wanted.insert(checked(&file.path)?, file);
    }
    let old = fs::read_link(volume.join(DATA)).ok();
    if let Some(old) = &old
        && is_equal(&volume.join(old), &wanted, group)
    {
        return show(volume, &wanted);
    }
    let stamp = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%N").to_string();
    let dir = volume.join(&stamp);
    make_dir(&dir, group)?;
    for (path, file) in &wanted {
        let path = dir.join(path);
        make_parents(&dir, &path, group)?;
        fs::write(&path, &file.content).map_err(VolumeError::file("write", &path))?;
        own(&path, group)?;
        set_mode(&path, mode(file, group))?;
    }
    let new = volume.join(NEW_DATA);
    remove_link(&new)?;
    symlink(&stamp, &new).map_err(VolumeError::file("link", &new))?;
    fs::rename(&new, volume.join(DATA)).map_err(VolumeError::file("swap", &new))?;
    show(volume, &wanted)?;
    if let Some(old) = old.filter(|old| old.as_os_str() != stamp.as_str()) {
        let path = volume.join(old);
        fs::remove_dir_all(&path).map_err(VolumeError::file("remove", &path))?;
    }
    Ok(())
}

/// Relative, downwards only, and not one of our own names.
fn checked(path: &str) -> Result<PathBuf, VolumeError> {
    let parts: Vec<_> = Path::new(path).components().collect();
    let plain =
        parts.iter().all(|part| matches!(part, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b"..")));
    if plain && !parts.is_empty() {
        return Ok(parts.iter().collect());
    }
    let error = io::Error::new(io::ErrorKind::InvalidInput, "a file's path must be relative, without `..`");
    Err(VolumeError::file("write", Path::new(path))(error))
}

fn mode(file: &DesiredFile, group: Option<i64>) -> u32 {
    file.mode & 0o7777 | if group.is_some() { GROUP_READS } else { 0 }
}

fn make_dir(dir: &Path, group: Option<i64>) -> Result<(), VolumeError> {
    fs::create_dir(dir).map_err(VolumeError::file("make", dir))?;
    own(dir, group)?;
    set_mode(dir, 0o755 | if group.is_some() { GROUP_ENTERS } else { 0 })
}

fn make_parents(root: &Path, path: &Path, group: Option<i64>) -> Result<(), VolumeError> {
    let parent = path.parent().unwrap_or(root);
    let missing: Vec<_> = parent.ancestors().take_while(|dir| *dir != root && !dir.exists()).collect();
    missing.into_iter().rev().try_for_each(|dir| make_dir(dir, group))
}

fn is_equal(dir: &Path, wanted: &BTreeMap<PathBuf, &DesiredFile>, group: Option<i64>) -> bool {
    let mut present = BTreeSet::new();
    if list(dir, dir, &mut present).is_err() || !present.iter().eq(wanted.keys()) {
        return false;
    }
    wanted.iter().all(|(path, file)| {
        let path = dir.join(path);
        let group_ok = |owner: u32| group.is_none_or(|group| i64::from(owner) == group);
        fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o7777 == mode(file, group) && group_ok(m.gid()))
            && fs::read(&path).is_ok_and(|content| content == file.content)
    })
}

fn list(root: &Path, dir: &Path, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(root, &path, into)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            into.insert(relative.to_owned());
        }
    }
    Ok(())
}

/// The links that users see: one for each name at the top, and none for what is no more.
fn show(volume: &Path, wanted: &BTreeMap<PathBuf, &DesiredFile>) -> Result<(), VolumeError> {
    let names: BTreeSet<PathBuf> =
        wanted.keys().filter_map(|path| path.components().next().map(|c| PathBuf::from(c.as_os_str()))).collect();
    for name in &names {
        let link = volume.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&link).is_ok_and(|old| old == target) {
            continue;
        }
        remove_link(&link)?;
        symlink(&target, &link).map_err(VolumeError::file("link", &link))?;
    }
    for entry in fs::read_dir(volume).map_err(VolumeError::file("list", volume))? {
        let path = entry.map_err(VolumeError::file("list", volume))?.path();
        let ours = fs::read_link(&path).is_ok_and(|target| target.starts_with(DATA));
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        if ours && !names.contains(&name) {
            remove_link(&path)?;
        }
    }
    Ok(())
}

fn remove_link(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(VolumeError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str, content: &str) -> DesiredFile {
        DesiredFile { path: path.to_owned(), mode: 0o644, content: content.as_bytes().to_vec() }
    }

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pilotlight-atomic-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
        fn data(&self) -> PathBuf {
            fs::read_link(self.0.join(DATA)).unwrap()
        }
        /// All files a user sees, by path.
        fn seen(&self) -> BTreeMap<PathBuf, Vec<u8>> {
            let mut found = BTreeSet::new();
            for entry in fs::read_dir(&self.0).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().unwrap().as_encoded_bytes().starts_with(b"..") {
                    continue;
                }
                if path.is_dir() {
                    list(&self.0, &path, &mut found).unwrap();
                } else {
                    found.insert(path.strip_prefix(&self.0).unwrap().to_owned());
                }
            }
            found.into_iter().map(|path| (path.clone(), fs::read(self.0.join(&path)).unwrap())).collect()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn equal_content_is_not_written_again_and_a_change_swaps_everything() {
        let dir = Dir::new("swap");
        write(&dir.0, &[file("a", "1"), file("d/b", "2")], None).unwrap();
        let first = dir.data();
        write(&dir.0, &[file("a", "1"), file("d/b", "2")], None).unwrap();
        assert_eq!(dir.data(), first);
        write(&dir.0, &[file("a", "1"), file("d/c", "3")], None).unwrap();
        assert_ne!(dir.data(), first);
        assert!(!dir.0.join(first).exists(), "the old files are gone");
        assert_eq!(dir.seen().keys().collect::<Vec<_>>(), [Path::new("a"), Path::new("d/c")]);
    }

    #[test]
    fn a_changed_mode_alone_is_a_change() {
        let dir = Dir::new("mode");
        write(&dir.0, &[file("a", "1")], None).unwrap();
        write(&dir.0, &[DesiredFile { mode: 0o400, ..file("a", "1") }], None).unwrap();
        assert_eq!(fs::metadata(dir.0.join("a")).unwrap().permissions().mode() & 0o7777, 0o400);
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        let dir = Dir::new("out");
        for path in ["../x", "/etc/x", "a/../../x", "", "..data/x", "a/..b"] {
            assert!(write(&dir.0, &[file(path, "1")], None).is_err(), "{path}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn after_any_updates_users_see_the_last_set_and_nothing_else(
            updates in prop::collection::vec(prop::collection::btree_map("[a-c](/[d-e])?", "[x-z]{0,2}", 0..4), 1..5)
        ) {
            let dir = Dir::new("any");
            for mut update in updates {
                // A name can't be a file and a directory at once; the API server refuses such volumes.
                let names: BTreeSet<String> = update.keys().cloned().collect();
                update.retain(|path, _| path.split_once('/').is_none_or(|(first, _)| !names.contains(first)));
                let files: Vec<_> = update.iter().map(|(path, content)| file(path, content)).collect();
                write(&dir.0, &files, None).unwrap();
                let expected: BTreeMap<PathBuf, Vec<u8>> =
                    update.iter().map(|(path, content)| (PathBuf::from(path), content.clone().into_bytes())).collect();
                prop_assert_eq!(dir.seen(), expected);
                let stamps = fs::read_dir(&dir.0).unwrap().filter(|e| {
                    e.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b"..2")
                }).count();
                prop_assert_eq!(stamps, 1);
            }
        }
    }
}
