//! Blobs that arrive piece by piece: kept by their hash, taken up where they broke off, believed only when checked.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use landfall_proto::{
    failure::Failure,
    order::{Blob, BlobHash},
};

use super::{broken, files};

/// Space that is left free, so that the machine and the journal go on working: 16 MiB.
const RESERVE: u64 = 16 << 20;

/// The directory that holds blobs.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
}

/// A blob that is arriving. What has arrived stays when it is dropped.
#[derive(Debug)]
pub struct Incoming {
    spool: Spool,
    blob: Blob,
    file: File,
    hasher: blake3::Hasher,
    length: u64,
}

impl Spool {
    /// Opens the spool in this directory, and makes the directory where there is none.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Failure> {
        let dir = dir.into();
        files::private_directory(&dir)?;
        Ok(Self { dir })
    }

    /// Returns where a blob is once it is complete.
    pub fn path(&self, hash: &BlobHash) -> PathBuf {
        self.dir.join(hash.as_str())
    }

    /// Returns the path of a blob that is complete and was checked.
    pub fn complete(&self, blob: &Blob) -> Option<PathBuf> {
        let path = self.path(&blob.hash);
        fs::metadata(&path)
            .is_ok_and(|found| found.len() == blob.size)
            .then_some(path)
    }

    /// Returns how much of a blob is there, complete or not.
    pub fn length(&self, blob: &Blob) -> u64 {
        if self.complete(blob).is_some() {
            return blob.size;
        }
        fs::metadata(self.part(blob)).map_or(0, |part| part.len().min(blob.size))
    }

    /// Opens a blob to receive the rest of it. Blocks while it reads what is there already.
    pub fn receive(&self, blob: &Blob) -> Result<Incoming, Failure> {
        let what = || format!("cannot receive blob {}", &blob.hash.as_str()[..12]);
        let part = self.part(blob);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&part);
        let mut file = file
            .map_err(broken(format!("opening {}", part.display())))
            .map_err(|f| f.under(what()))?;
        let mut hasher = blake3::Hasher::new();
        let length = read_into(&mut file, &mut hasher, blob.size)
            .map_err(broken(format!("reading {}", part.display())))
            .map_err(|failure| failure.under(what()))?;
        let missing = blob.size - length;
        let free = files::free(&self.dir)?;
        if free < missing + RESERVE {
            return Err(Failure::new(what())
                .because(format!(
                    "{} is too full: {} MiB free, {} MiB needed",
                    self.dir.display(),
                    free >> 20,
                    (missing + RESERVE).div_ceil(1 << 20)
                ))
                .hint("free some space there, or use a machine with more memory")
                .code("LF1201"));
        }
        Ok(Incoming {
            spool: self.clone(),
            blob: blob.clone(),
            file,
            hasher,
            length,
        })
    }

    /// Removes a blob, complete or not.
    pub fn discard(&self, blob: &Blob) {
        let _ = fs::remove_file(self.path(&blob.hash));
        let _ = fs::remove_file(self.part(blob));
    }

    /// Removes everything but this blob.
    pub fn discard_others(&self, blob: &Blob) {
        let own = [self.path(&blob.hash), self.part(blob)];
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in entries
            .map(|entry| entry.path())
            .filter(|path| !own.contains(path))
        {
            let _ = fs::remove_file(path);
        }
    }

    fn part(&self, blob: &Blob) -> PathBuf {
        self.dir.join(format!("{}.part", blob.hash))
    }
}

impl Incoming {
    /// Returns how much has arrived.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends what arrived. Blocks.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.length + bytes.len() as u64 > self.blob.size {
            return Err(self.wrong("it is longer than was said"));
        }
        self.file.write_all(bytes).map_err(|error| {
            let full = error.kind() == std::io::ErrorKind::StorageFull;
            let failure = Failure::new("cannot store what arrives")
                .because(format!("writing to {}", self.spool.dir.display()))
                .caused_by(&error);
            if full {
                failure
                    .hint("free some space there; the same command goes on")
                    .code("LF1201")
            } else {
                failure
            }
        })?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Checks the whole blob and keeps it. Blocks.
    ///
    /// A blob that is not what its hash says is removed, so that the next try begins anew.
    pub fn finish(self) -> Result<PathBuf, Failure> {
        if self.length != self.blob.size {
            return Err(self.wrong(&format!(
                "{} of {} bytes arrived",
                self.length, self.blob.size
            )));
        }
        if self.hasher.finalize().to_hex().as_str() != self.blob.hash.as_str() {
            self.spool.discard(&self.blob);
            return Err(self
                .wrong("its bytes do not have the hash that was said")
                .hint("run the same command again; it is sent anew"));
        }
        let path = self.spool.path(&self.blob.hash);
        self.file
            .sync_all()
            .and_then(|()| fs::rename(self.spool.part(&self.blob), &path))
            .map_err(broken(format!("cannot keep {}", path.display())))?;
        Ok(path)
    }

    fn wrong(&self, why: &str) -> Failure {
        let short = &self.blob.hash.as_str()[..12];
        Failure::new(format!("cannot accept blob {short}"))
            .because(why)
            .code("LF1202")
    }
}

/// Hashes what is there, at most so much, and cuts off anything beyond.
fn read_into(file: &mut File, hasher: &mut blake3::Hasher, most: u64) -> std::io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    let mut limited = Read::take(&mut *file, most);
    loop {
        let read = limited.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
    }
    file.set_len(length)?;
    Ok(length)
}

/// Hashes a file. Blocks.
pub fn hash(path: &Path) -> Result<String, Failure> {
    let what = || format!("cannot hash {}", path.display());
    let mut file = File::open(path).map_err(broken(what()))?;
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher).map_err(broken(what()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(bytes: &[u8]) -> Blob {
        let hash = blake3::hash(bytes).to_hex().to_string();
        Blob {
            hash: hash.try_into().unwrap(),
            size: bytes.len() as u64,
        }
    }

    #[test]
    fn blob_goes_on_where_it_broke_off() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        let blob = blob(b"one two three");
        let mut first = spool.receive(&blob).unwrap();
        first.write(b"one ").unwrap();
        drop(first);
        assert_eq!(spool.length(&blob), 4);
        assert_eq!(spool.complete(&blob), None);
        let mut second = spool.receive(&blob).unwrap();
        assert_eq!(second.length(), 4);
        second.write(b"two three").unwrap();
        let path = second.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two three");
        assert_eq!(spool.complete(&blob), Some(path));
        assert_eq!(spool.length(&blob), 13);
    }

    #[test]
    fn blob_with_other_bytes_is_refused_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let blob = blob(b"right");
        let mut incoming = spool.receive(&blob).unwrap();
        incoming.write(b"wrong").unwrap();
        assert_eq!(incoming.finish().unwrap_err().code, "LF1202");
        assert_eq!(spool.length(&blob), 0);
    }

    #[test]
    fn blob_that_is_too_long_or_too_short_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let blob = blob(b"right");
        let mut incoming = spool.receive(&blob).unwrap();
        incoming.write(b"righ").unwrap();
        assert_eq!(
            incoming.write(b"ts").unwrap_err().causes,
            ["it is longer than was said"]
        );
        assert_eq!(
            incoming.finish().unwrap_err().causes,
            ["4 of 5 bytes arrived"]
        );
    }

    #[test]
    fn blob_that_does_not_fit_is_refused_with_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let huge = Blob {
            size: 1 << 60,
            ..blob(b"")
        };
        let failure = spool.receive(&huge).unwrap_err();
        assert_eq!(failure.code, "LF1201");
        assert!(failure.causes[0].contains("MiB free"), "{failure:?}");
    }
}
