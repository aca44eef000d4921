//! A directory of the user's as one tar archive, the same bytes each time it is packed unchanged.
//!
//! Owners are not kept: what it is unpacked to belongs to root.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use landfall_proto::{failure::Failure, order::Blob};
use tar::{Builder, EntryType, Header};

use super::agents::hash_of;

/// An archive ready to be sent. The file has no name: it goes away with the value, and with a process that is killed.
#[derive(Debug)]
pub struct Packed {
    /// The archive, not compressed: the stream it travels in is.
    pub file: File,
    /// Its hash and size.
    pub blob: Blob,
}

/// Packs what is in a directory, not the directory itself.
///
/// Modes, times and symbolic links are kept as they are; hard links become files of their own. What is no file,
/// directory or link is refused.
pub async fn pack(directory: &Path) -> Result<Packed, Failure> {
    let directory = directory.to_owned();
    let packed = tokio::task::spawn_blocking(move || {
        pack_now(&directory).map_err(|failure| {
            failure
                .under(format!("cannot pack {}", directory.display()))
                .or_code("LF0601")
        })
    });
    packed
        .await
        .expect("packing does not panic and is not aborted")
}

fn pack_now(directory: &Path) -> Result<Packed, Failure> {
    let hint = "name a directory that can be read: `--extra-files DIR`";
    let found = fs::metadata(directory);
    let found = found.map_err(|error| broken("opening it")(error).hint(hint))?;
    if !found.is_dir() {
        return Err(Failure::new("it is no directory").hint(hint));
    }
    let mut file = tempfile::tempfile().map_err(broken("making a temporary file"))?;
    let hashed = Hashed {
        inner: BufWriter::new(&mut file),
        hasher: blake3::Hasher::new(),
        size: 0,
    };
    let mut builder = Builder::new(hashed);
    for path in sorted(directory)? {
        append(&mut builder, directory, &path)?;
    }
    let mut hashed = builder
        .into_inner()
        .map_err(broken("writing the archive"))?;
    hashed.flush().map_err(broken("writing the archive"))?;
    let blob = Blob {
        hash: hash_of(&hashed.hasher.finalize()),
        size: hashed.size,
    };
    drop(hashed);
    Ok(Packed { file, blob })
}

/// Returns everything below a directory, by name, each directory before what is in it.
fn sorted(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(folder) = open.pop() {
        let reading = || broken(format!("reading {}", folder.display()));
        for entry in fs::read_dir(&folder).map_err(reading())? {
            let entry = entry.map_err(reading())?;
            // of the entry itself: a link to a directory is a link
            if entry.file_type().map_err(reading())?.is_dir() {
                open.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn append(builder: &mut Builder<impl Write>, directory: &Path, path: &Path) -> Result<(), Failure> {
    let name = path
        .strip_prefix(directory)
        .expect("it was found below the directory");
    let reading = || broken(format!("reading {}", path.display()));
    let metadata = fs::symlink_metadata(path).map_err(reading())?;
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let kind = metadata.file_type();
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = fs::read_link(path).map_err(reading())?;
        builder
            .append_link(&mut header, name, target)
            .map_err(reading())
    } else if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        builder
            .append_data(&mut header, name, io::empty())
            .map_err(reading())
    } else if kind.is_file() {
        let opened = File::open(path).map_err(broken(format!("opening {}", path.display())))?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(metadata.len());
        // a file that grows meanwhile must not run over into the next entry
        let mut content = io::Read::take(opened, metadata.len());
        builder
            .append_data(&mut header, name, &mut content)
            .map_err(reading())?;
        match content.limit() {
            0 => Ok(()),
            _ => Err(Failure::new(format!(
                "{} became shorter while it was read",
                path.display()
            ))),
        }
    } else {
        let is = if kind.is_socket() {
            "a socket"
        } else if kind.is_fifo() {
            "a pipe"
        } else {
            "a device"
        };
        Err(Failure::new(format!("{} is {is}", path.display()))
            .hint(format!("take it out: `rm {}`", path.display())))
    }
}

fn broken(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let doing = doing.into();
    move |error| Failure::new(doing).caused_by(&error)
}

struct Hashed<W> {
    inner: W,
    hasher: blake3::Hasher,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Seek},
        os::unix::{
            fs::{PermissionsExt, symlink},
            net::UnixListener,
        },
    };

    use super::*;
    use crate::local::agents::blob_of;

    fn sample() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let below = |name: &str| folder.path().join(name);
        fs::create_dir_all(below("etc/ssh")).unwrap();
        fs::write(below("etc/ssh/key"), "secret").unwrap();
        fs::set_permissions(below("etc/ssh/key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(below("etc/a"), "a").unwrap();
        symlink("/run/nowhere", below("etc/link")).unwrap();
        let long = "n".repeat(200);
        fs::write(below(&long), "long").unwrap();
        folder
    }

    #[tokio::test]
    async fn archive_holds_modes_links_and_root_as_owner() {
        let folder = sample();
        let mut packed = pack(folder.path()).await.unwrap();
        let mut bytes = Vec::new();
        packed.file.rewind().unwrap();
        packed.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(packed.blob, blob_of(&bytes));
        let mut archive = tar::Archive::new(&*bytes);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            (
                entry.path().unwrap().display().to_string(),
                header.mode().unwrap(),
                header.entry_type(),
            )
        });
        let entries: Vec<_> = entries.filter(|(_, mode, _)| *mode != 0o644).collect();
        assert_eq!(
            entries,
            [
                ("etc".to_owned(), 0o755, EntryType::Directory),
                ("etc/link".to_owned(), 0o777, EntryType::Symlink),
                ("etc/ssh".to_owned(), 0o755, EntryType::Directory),
                ("etc/ssh/key".to_owned(), 0o600, EntryType::Regular),
            ]
        );
    }

    #[tokio::test]
    async fn unchanged_directory_gives_the_same_bytes() {
        let folder = sample();
        let first = pack(folder.path()).await.unwrap().blob;
        assert_eq!(pack(folder.path()).await.unwrap().blob, first);
    }

    #[tokio::test]
    async fn empty_directory_is_an_archive() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(pack(folder.path()).await.unwrap().blob.size, 1024);
    }

    #[tokio::test]
    async fn socket_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let failure = pack(folder.path()).await.unwrap_err();
        assert_eq!(
            failure.what,
            format!("cannot pack {}", folder.path().display())
        );
        assert_eq!(failure.causes, [format!("{} is a socket", path.display())]);
    }

    #[tokio::test]
    async fn missing_directory_is_told() {
        let failure = pack(Path::new("/nonexistent/x")).await.unwrap_err();
        assert_eq!(failure.what, "cannot pack /nonexistent/x");
        assert_eq!(failure.causes[0], "opening it");
    }
}
