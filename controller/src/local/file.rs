//! Files that are whole or not there, and folders that are ours alone.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use landfall_proto::failure::Failure;

/// Writes a file that only we can read, so that it has either the old or the new content, even after a power cut.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut temporary = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(folder)?;
        temporary
            .as_file()
            .set_permissions(fs::Permissions::from_mode(0o600))?;
        temporary.write_all(bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        // the name counts only once the folder is on disk
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error| cannot("write", path).caused_by(&error))
}

/// Writes a file that anybody may read, and makes the folders above it.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, bytes));
    written.map_err(|error| cannot("write", path).caused_by(&error))
}

/// Makes a folder that only we can enter, and those above it. One that is there already is closed to others.
pub fn private_folder(path: &Path) -> Result<(), Failure> {
    let make = || -> std::io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    };
    make().map_err(|error| cannot("make", path).caused_by(&error))
}

/// Reads a file; none when it does not exist.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path).caused_by(&error)),
    }
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(cannot("remove", path).caused_by(&error))
        }
        _ => Ok(()),
    }
}

/// Opens a file to read its lines.
pub fn open(path: &Path) -> Result<std::io::BufReader<fs::File>, Failure> {
    let opened = fs::File::open(path);
    opened
        .map(std::io::BufReader::new)
        .map_err(|error| cannot("read", path).caused_by(&error))
}

/// A file that is read piece by piece.
#[derive(Debug)]
pub struct Reader {
    file: tokio::fs::File,
    path: std::path::PathBuf,
}

/// Opens a file to read it from an offset on.
pub fn read_from(path: &Path, offset: u64) -> Result<Reader, Failure> {
    use std::io::{Seek, SeekFrom};
    let opened = fs::File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    });
    let file = opened.map_err(|error| cannot("read", path).caused_by(&error))?;
    Ok(Reader {
        file: tokio::fs::File::from_std(file),
        path: path.to_owned(),
    })
}

impl Reader {
    /// Returns the next piece, at most `most` bytes long; empty at the end.
    pub async fn next(&mut self, most: usize) -> Result<Vec<u8>, Failure> {
        use tokio::io::AsyncReadExt;
        let mut piece = Vec::with_capacity(most);
        let mut limited = (&mut self.file).take(most as u64);
        let read = limited.read_to_end(&mut piece).await;
        read.map_err(|error| cannot("read", &self.path).caused_by(&error))?;
        Ok(piece)
    }
}

/// Opens a file for appending that only we can read.
pub fn append_private(path: &Path) -> Result<fs::File, Failure> {
    let opened = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path);
    opened.map_err(|error| cannot("open", path).caused_by(&error))
}

/// Begins the failure of doing something to a file.
pub fn cannot(verb: &str, path: &Path) -> Failure {
    Failure::new(format!("cannot {verb} {}", path.display())).code("LF0420")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_file_replaces_an_open_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "old").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_file_is_none() {
        assert_eq!(read(Path::new("/nonexistent/x")), Ok(None));
    }
}
