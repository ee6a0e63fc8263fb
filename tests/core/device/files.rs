//! Files and who may have them.

use std::fs;
use std::path::{Path, PathBuf};

use thinmeta::device::{Claim, Device, FileDevice};
use thinmeta::error::Error;

/// A directory that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("thinmeta-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.join("image");
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn is_in_use(answer: Result<FileDevice, Error>, path: &Path) -> bool {
    matches!(answer, Err(Error::InUse { path: who, .. }) if who == path)
}

#[test]
fn a_writer_has_a_file_alone_and_readers_share_it() {
    let folder = Folder::new("sharing");
    let path = folder.file(&[1; 8192]);
    let readers = [(); 2].map(|()| FileDevice::open(&path, Claim::Unused).unwrap());
    assert!(is_in_use(FileDevice::open_writable(&path), &path));
    assert!(is_in_use(FileDevice::open_or_make(&path), &path));
    drop(readers);
    let writer = FileDevice::open_writable(&path).unwrap();
    assert!(is_in_use(FileDevice::open(&path, Claim::Unused), &path));
    assert!(is_in_use(FileDevice::open_writable(&path), &path));
    FileDevice::open(&path, Claim::BesideItsUser).unwrap();
    drop(writer);
    FileDevice::open(&path, Claim::Unused).unwrap();
}

#[test]
fn what_is_written_is_read_and_what_is_past_the_end_is_refused() {
    let folder = Folder::new("writing");
    let path = folder.file(&[1; 8192]);
    let device = FileDevice::open_writable(&path).unwrap();
    assert!(device.is_writable() && !device.is_block_device() && !device.was_made());
    device.write_all_at(&[2; 4096], 4096).unwrap();
    device.flush().unwrap();
    let mut both = vec![0; 8192];
    device.read_exact_at(&mut both, 0).unwrap();
    assert_eq!(both, [[1; 4096], [2; 4096]].concat());
    for offset in [4097, 8192, u64::MAX - 4095, u64::MAX] {
        let refused = device.write_all_at(&[3; 4096], offset);
        assert!(matches!(refused, Err(Error::Io { offset_bytes: Some(at), .. }) if at == offset));
    }
    assert_eq!(fs::read(&path).unwrap(), both);
}

#[test]
fn what_is_open_for_reading_refuses_every_change() {
    let folder = Folder::new("refusing");
    let path = folder.file(&[1; 4096]);
    let device = FileDevice::open(&path, Claim::Unused).unwrap();
    assert!(!device.is_writable());
    let answers = [
        device.write_all_at(&[0; 4096], 0),
        device.flush(),
        device.grow(8192),
    ];
    for answer in answers {
        assert!(matches!(answer, Err(Error::ReadOnly(_))));
    }
    assert_eq!(fs::read(&path).unwrap(), [1; 4096]);
}

#[test]
fn making_a_file_keeps_what_is_there_and_growing_takes_nothing_away() {
    let folder = Folder::new("making");
    let path = folder.0.join("new");
    let missing = FileDevice::open_writable(&path);
    assert!(matches!(missing, Err(Error::Io { .. })));
    let device = FileDevice::open_or_make(&path).unwrap();
    assert!(device.was_made());
    assert_eq!(device.size_bytes(), 0);
    device.grow(1 << 40).unwrap();
    assert_eq!(device.size_bytes(), 1 << 40);
    device.write_all_at(&[7; 512], (1 << 40) - 512).unwrap();
    device.grow(4096).unwrap();
    assert_eq!(device.current_size_bytes().unwrap(), 1 << 40);
    drop(device);

    let again = FileDevice::open_or_make(&path).unwrap();
    assert!(!again.was_made());
    let mut end = [0; 512];
    again.read_exact_at(&mut end, (1 << 40) - 512).unwrap();
    assert_eq!(end, [7; 512]);
    assert!(is_in_use(FileDevice::open_or_make(&path), &path));
}

#[test]
fn what_holds_no_bytes_is_refused() {
    let folder = Folder::new("kinds");
    for path in [folder.0.as_path(), Path::new("/dev/null")] {
        for answer in [
            FileDevice::open(path, Claim::Unused),
            FileDevice::open_writable(path),
            FileDevice::open_or_make(path),
        ] {
            assert!(
                matches!(answer, Err(Error::Io { .. })),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn a_file_that_failed_can_be_opened_again_once_the_disk_is_what_is_read() {
    let folder = Folder::new("again");
    let path = folder.file(&[1; 8192]);
    for _ in 0..2 {
        let device = FileDevice::open_writable(&path).unwrap();
        device.write_all_at(&[9; 4096], 0).unwrap();
        device.note_poisoned();
        drop(device);
        let device = FileDevice::open_writable(&path).unwrap();
        let mut first = [0; 4096];
        device.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [9; 4096]);
    }
}
