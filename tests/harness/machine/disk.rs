//! A machine's disks: sparse files in its own folder, never anything of this host.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

const GIB: u64 = 1 << 30;
const LETTERS: [char; 8] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

/// The file behind disk number `index`: 0 is vda.
#[must_use]
pub fn path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{}.raw", name(index)))
}

/// What the guest calls disk number `index`.
#[must_use]
pub fn name(index: usize) -> String {
    format!("vd{}", LETTERS[index])
}

/// Makes the disks: the first as a copy of `image` if there is one, all others empty.
///
/// A disk is never smaller than its image.
pub fn create(folder: &Path, image: Option<&Path>, sizes_gib: &[u32]) -> Result<()> {
    ensure!(
        (1..=LETTERS.len()).contains(&sizes_gib.len()),
        "a machine has one to {} disks",
        LETTERS.len()
    );
    for (index, gib) in sizes_gib.iter().enumerate() {
        let disk = path(folder, index);
        match image.filter(|_| index == 0) {
            Some(image) => copy_sparse(image, &disk)?,
            None => {
                drop(File::create(&disk).with_context(|| format!("making {}", disk.display()))?);
            }
        }
        let file = File::options().write(true).open(&disk)?;
        let size = file.metadata()?.len().max(u64::from(*gib) * GIB);
        file.set_len(size)
            .with_context(|| format!("growing {}", disk.display()))?;
    }
    Ok(())
}

/// Whether firmware would find a boot sector or a partition table on this disk.
///
/// The Debian target has neither: it is a bare file system, and its kernel comes from outside.
pub fn has_boot_sector(disk: &Path) -> Result<bool> {
    let mut file = File::open(disk).with_context(|| format!("opening {}", disk.display()))?;
    let mut signature = [0; 2];
    file.seek(SeekFrom::Start(510))?;
    let found = file.read_exact(&mut signature).is_ok();
    Ok(found && signature == [0x55, 0xaa])
}

/// The first of `count` disks that firmware could boot from.
pub fn bootable(folder: &Path, count: usize) -> Result<Option<usize>> {
    for index in 0..count {
        if has_boot_sector(&path(folder, index))? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Bytes a disk occupies on this host.
pub fn used(disk: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(disk).map_or(0, |meta| meta.blocks() * 512)
}

/// Copies a file and leaves out what is zero.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto", "--no-preserve=all"])
        .args([from, to])
        .status()
        .context("starting cp")?;
    ensure!(
        done.success(),
        "copying {} to {}",
        from.display(),
        to.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{bootable, create, has_boot_sector, path};

    #[test]
    fn disk_is_never_smaller_than_its_image() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(3 << 30).unwrap();
        create(folder.path(), Some(&image), &[1, 2]).unwrap();
        assert_eq!(fs::metadata(path(folder.path(), 0)).unwrap().len(), 3 << 30);
        assert_eq!(fs::metadata(path(folder.path(), 1)).unwrap().len(), 2 << 30);
    }

    #[test]
    fn empty_disk_does_not_boot_and_one_with_a_signature_does() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path(), None, &[1, 1]).unwrap();
        let disk = path(folder.path(), 1);
        assert!(!has_boot_sector(&disk).unwrap());
        assert_eq!(bootable(folder.path(), 2).unwrap(), None);
        let mut sector = vec![0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&disk, sector).unwrap();
        assert!(has_boot_sector(&disk).unwrap());
        assert_eq!(bootable(folder.path(), 2).unwrap(), Some(1));
    }
}
