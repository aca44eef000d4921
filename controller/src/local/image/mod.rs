//! A kexec image on this machine: fetched where it is an address, read to its end before it is sent anywhere.
//!
//! Whatever is wrong with a file is found here, while the target is still untouched.

mod fetch;
mod transfer;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use landfall_proto::{failure::Failure, order::Blob};
use tar::Archive;

pub use self::fetch::fetch;
use super::agents::hash_of;

/// What an image must have besides its own `kexec/run`, and what it may have.
const RUN: &str = "kexec/run";
const KERNEL: &str = "kexec/bzImage";
const INITRD: &str = "kexec/initrd";

/// An image that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The tarball.
    pub path: PathBuf,
    /// Its hash and size.
    pub blob: Blob,
    /// What it takes on the target.
    pub unpacked: Unpacked,
}

/// Sizes of what is loaded into the target's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// The kernel.
    pub kernel: u64,
    /// Its initrd.
    pub initrd: u64,
}

/// Reads an image once, from its first byte to its last.
///
/// Returns only where it is a whole tarball in the stock layout, compressed by gzip, xz, zstd or not at all.
pub async fn check(path: &Path) -> Result<Local, Failure> {
    let path = path.to_owned();
    let checked = tokio::task::spawn_blocking(move || {
        check_now(&path).map_err(|failure| {
            failure
                .under(format!("cannot use {} as a kexec image", path.display()))
                .or_code("LF0342")
        })
    });
    checked
        .await
        .expect("reading does not panic and is not aborted")
}

fn check_now(path: &Path) -> Result<Local, Failure> {
    let broken =
        |doing: &'static str| move |error| Failure::new(doing).caused_by(&error as &io::Error);
    let file = File::open(path).map_err(|error| {
        broken("opening it")(error).hint("name a tarball that can be read: `--kexec FILE`")
    })?;
    if !file.metadata().map_err(broken("opening it"))?.is_file() {
        return Err(Failure::new("it is no file"));
    }
    let hashed = Hashed {
        inner: file,
        hasher: blake3::Hasher::new(),
        size: 0,
    };
    let mut input = BufReader::with_capacity(128 << 10, hashed);
    let unpacked = read(&mut input)?;
    // what may follow the compressed data is sent too, so it counts
    io::copy(&mut input, &mut io::sink()).map_err(broken("reading it"))?;
    let hashed = input.into_inner();
    let blob = Blob {
        hash: hash_of(&hashed.hasher.finalize()),
        size: hashed.size,
    };
    Ok(Local {
        path: path.to_owned(),
        blob,
        unpacked,
    })
}

fn read(input: &mut impl BufRead) -> Result<Unpacked, Failure> {
    let (output, compressed) = decompressed(input)?;
    let mut archive = Archive::new(Watched {
        inner: output,
        count: 0,
        cut: false,
    });
    let found = entries(&mut archive);
    let mut output = archive.into_inner();
    let found = match found {
        // the rest is checked too: it may be damaged behind the last entry
        Ok(found) => match io::copy(&mut output, &mut io::sink()) {
            Ok(_) => Ok(found),
            Err(error) => Err((found, error)),
        },
        failed => failed,
    };
    match found {
        Ok(found) if found.end + 512 > output.count => {
            Err(cut("the mark at its end is missing".to_owned()))
        }
        Ok(found) => found.complete(),
        Err((found, error)) if output.cut && (compressed || found.count > 0) => Err(cut(format!(
            "reading what follows {}: {error}",
            found.last()
        ))),
        Err((found, _)) if found.count == 0 => Err(no_tarball()),
        Err((found, error)) => Err(Failure::new("it is damaged")
            .because(format!("reading what follows {}", found.last()))
            .caused_by(&error)
            .hint("copy or download it again")),
    }
}

fn cut(why: String) -> Failure {
    Failure::new("it ends in the middle")
        .because(why)
        .hint("copy or download it again")
}

fn no_tarball() -> Failure {
    Failure::new("it is no tarball")
        .hint("give a tarball with `kexec/run`, compressed by gzip, xz, zstd or not at all")
}

/// What was found in a tarball so far.
#[derive(Debug, Clone, Default)]
struct Found {
    count: u64,
    last: String,
    end: u64,
    run: bool,
    kernel: Option<u64>,
    initrd: Option<u64>,
}

impl Found {
    fn last(&self) -> &str {
        if self.last.is_empty() {
            "its beginning"
        } else {
            &self.last
        }
    }

    fn complete(&self) -> Result<Unpacked, Failure> {
        let lacks = |name: &str| {
            Failure::new(format!("it has no {name}"))
                .hint("give an image in the layout of nixos-images, such as `config.system.build.kexecInstallerTarball`")
        };
        if self.count == 0 {
            return Err(no_tarball());
        }
        if !self.run {
            return Err(lacks(RUN));
        }
        Ok(Unpacked {
            kernel: self.kernel.ok_or_else(|| lacks(KERNEL))?,
            initrd: self.initrd.ok_or_else(|| lacks(INITRD))?,
        })
    }
}

fn entries(archive: &mut Archive<impl Read>) -> Result<Found, (Found, io::Error)> {
    let mut found = Found::default();
    let entries = archive.entries().map_err(|error| (found.clone(), error))?;
    for entry in entries {
        let entry = entry.map_err(|error| (found.clone(), error))?;
        let name = entry.path_bytes();
        let name = String::from_utf8_lossy(name.strip_prefix(b"./").unwrap_or(&name)).into_owned();
        found.count += 1;
        found.end = entry.raw_file_position()
            + entry
                .header()
                .entry_size()
                .unwrap_or(0)
                .next_multiple_of(512);
        match name.as_str() {
            RUN => found.run = true,
            KERNEL => found.kernel = Some(entry.size()),
            INITRD => found.initrd = Some(entry.size()),
            _ => {}
        }
        found.last = name;
    }
    Ok(found)
}

/// Returns what is inside, and whether it was compressed.
fn decompressed<'a>(input: &'a mut impl BufRead) -> Result<(Box<dyn Read + 'a>, bool), Failure> {
    let reading = |error| Failure::new("reading its beginning").caused_by(&error as &io::Error);
    let output: Box<dyn Read + 'a> = match input.fill_buf().map_err(reading)? {
        [] => return Err(Failure::new("it is empty").hint("copy or download it again")),
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(input))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(zstd::Decoder::with_buffer(input).map_err(reading)?)
        }
        _ => return Ok((Box::new(input), false)),
    };
    Ok((output, true))
}

/// Knows how far it was read, and whether its end came.
struct Watched<R> {
    inner: R,
    count: u64,
    cut: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        match &read {
            Ok(0) if !buffer.is_empty() => self.cut = true,
            Ok(count) => self.count += *count as u64,
            Err(error) => self.cut |= error.kind() == io::ErrorKind::UnexpectedEof,
        }
        read
    }
}

struct Hashed<R> {
    inner: R,
    hasher: blake3::Hasher,
    size: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::local::agents::blob_of;

    /// Bytes that do not compress, so that a cut falls where it should.
    fn noise(name: &str) -> Vec<u8> {
        let mut bytes = vec![0; 100_000];
        blake3::Hasher::new()
            .update(name.as_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    fn tarball(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let content = noise(name);
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            builder.append_data(&mut header, name, &*content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn compressed(plain: &[u8]) -> [(&'static str, Vec<u8>); 4] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(plain).unwrap();
        [
            ("plain", plain.to_vec()),
            ("gzip", gzip.finish().unwrap()),
            ("xz", xz.finish().unwrap()),
            ("zstd", zstd::encode_all(plain, 1).unwrap()),
        ]
    }

    fn check_bytes(bytes: &[u8]) -> Result<Local, Failure> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        check_now(file.path())
    }

    #[test]
    fn whole_image_is_accepted_in_every_compression() {
        for names in [
            ["./kexec/run", "./kexec/bzImage", "./kexec/initrd"],
            [RUN, KERNEL, INITRD],
        ] {
            for (kind, bytes) in compressed(&tarball(&names)) {
                let local =
                    check_bytes(&bytes).unwrap_or_else(|failure| panic!("{kind}: {failure:?}"));
                assert_eq!(local.blob, blob_of(&bytes), "{kind}");
                assert_eq!(
                    local.unpacked,
                    Unpacked {
                        kernel: 100_000,
                        initrd: 100_000
                    }
                );
            }
        }
    }

    #[test]
    fn cut_image_is_refused_wherever_it_was_cut() {
        for (kind, bytes) in compressed(&tarball(&[RUN, KERNEL, INITRD])) {
            let inside_header = 100_000_usize.next_multiple_of(512) + 512 + 100;
            let between_entries = 100_000_usize.next_multiple_of(512) + 512;
            let behind_all = if kind == "plain" {
                bytes.len() - 1024
            } else {
                bytes.len() - 3
            };
            for at in [700, 150_000, inside_header, between_entries, behind_all] {
                let failure = check_bytes(&bytes[..at]).unwrap_err();
                assert_eq!(
                    failure.what, "it ends in the middle",
                    "{kind} at {at}: {failure:?}"
                );
            }
        }
    }

    #[test]
    fn damaged_image_is_refused() {
        // zstd's own checksum is optional, and off in most programs
        for (kind, mut bytes) in compressed(&tarball(&[RUN, KERNEL, INITRD]))
            .into_iter()
            .take(3)
        {
            let at = match kind {
                "plain" => 150 + 100_000_usize.next_multiple_of(512) + 512,
                "gzip" => bytes.len() - 6,
                _ => bytes.len() - 150_000,
            };
            bytes[at] ^= 0x55;
            let failure = check_bytes(&bytes).unwrap_err();
            assert_eq!(failure.what, "it is damaged", "{kind}: {failure:?}");
        }
    }

    #[test]
    fn missing_parts_are_named() {
        #[track_caller]
        fn check(names: &[&str], missing: &str) {
            let failure = check_bytes(&tarball(names)).unwrap_err();
            assert_eq!(failure.what, format!("it has no {missing}"));
        }
        check(&["other/run", KERNEL, INITRD], RUN);
        check(&[RUN, INITRD], KERNEL);
        check(&[RUN, KERNEL], INITRD);
    }

    #[test]
    fn other_files_are_no_tarballs() {
        let page = "<!DOCTYPE html><title>404</title>".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(page.as_bytes()).unwrap();
        for bytes in [page.as_bytes(), b"x", &gzip.finish().unwrap(), &[0; 4096]] {
            assert_eq!(check_bytes(bytes).unwrap_err().what, "it is no tarball");
        }
        assert_eq!(check_bytes(b"").unwrap_err().what, "it is empty");
    }

    #[tokio::test]
    async fn missing_file_is_named() {
        let failure = check(Path::new("/nonexistent/kexec.tar"))
            .await
            .unwrap_err();
        assert_eq!(
            failure.what,
            "cannot use /nonexistent/kexec.tar as a kexec image"
        );
        assert_eq!(failure.causes[0], "opening it");
        assert_eq!(
            check(Path::new("/")).await.unwrap_err().causes,
            ["it is no file"]
        );
    }
}
