//! Is a file the backing store of a loop device?
//!
//! The kernel's loop driver takes no lock on its file, so the only way to know
//! is to compare device and inode with what each loop device stands on.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The loop device that stands on `file`, e.g. `"/dev/loop3"`.
pub fn loop_device_on(file: &Metadata) -> Option<String> {
    loop_device_in(Path::new("/sys/block"), file)
}

fn loop_device_in(block_devices: &Path, file: &Metadata) -> Option<String> {
    fs::read_dir(block_devices)
        .ok()?
        .flatten()
        .find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            if !name.starts_with("loop") {
                return None;
            }
            let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            let backing = fs::metadata(backing.trim_end_matches('\n')).ok()?;
            (backing.dev() == file.dev() && backing.ino() == file.ino())
                .then(|| format!("/dev/{name}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backing_file_is_known_by_inode_and_not_by_name() {
        let dir = std::env::temp_dir().join(format!("thinmeta-loop-{}", std::process::id()));
        let sys = dir.join("sys/loop7/loop");
        fs::create_dir_all(&sys).unwrap();
        fs::write(dir.join("image"), b"x").unwrap();
        fs::write(dir.join("other"), b"x").unwrap();
        fs::hard_link(dir.join("image"), dir.join("alias")).unwrap();
        fs::write(
            sys.join("backing_file"),
            format!("{}\n", dir.join("image").display()),
        )
        .unwrap();
        let find =
            |name: &str| loop_device_in(&dir.join("sys"), &fs::metadata(dir.join(name)).unwrap());
        assert_eq!(find("alias").as_deref(), Some("/dev/loop7"));
        assert_eq!(find("other"), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
