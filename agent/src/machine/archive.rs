//! Unpacks tar archives in process: gzip, xz, zstd or plain, told apart by their first bytes.
//!
//! An archive comes from outside. It writes only below the directory it was given: no absolute names, no `..`, no way
//! through links, no device nodes, and no more than fits.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, BufReader, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use landfall_proto::failure::Failure;
use tar::{Archive, Entry, EntryType};
use tokio_util::sync::CancellationToken;

use super::{broken, files};

/// Space that an archive leaves free: 16 MiB.
const RESERVE: u64 = 16 << 20;

/// What a directory's owner may do while it is filled.
const OPEN: u32 = 0o700;

/// Where the symbolic links of an archive may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Only to places inside the archive.
    Inside,
    /// Anywhere: they are read later, in the system that is installed. Nothing is written through them.
    Anywhere,
}

/// Files of an archive that are written to another folder, under their last names; a link stands where they would be.
#[derive(Debug, Clone, Copy)]
pub struct Apart<'a> {
    /// Their names in the archive.
    pub names: &'a [&'a str],
    /// The folder.
    pub folder: &'a Path,
}

/// Unpacks an archive below a directory that is there. Blocks.
///
/// Directories that exist keep their mode, files that exist are replaced. The owner is whoever runs this. What was
/// unpacked before a failure stays. `progress` is told how many bytes of the archive were read.
pub fn unpack(
    archive: &Path,
    below: &Path,
    apart: Option<Apart<'_>>,
    links: Links,
    stop: &CancellationToken,
    progress: impl FnMut(u64),
) -> Result<(), Failure> {
    let what = format!("cannot unpack {}", archive.display());
    let file = File::open(archive).map_err(broken(what.clone()))?;
    unpack_from(file, below, apart, links, stop, progress).map_err(|failure| failure.under(what))
}

fn unpack_from(
    input: impl Read,
    below: &Path,
    apart: Option<Apart<'_>>,
    links: Links,
    stop: &CancellationToken,
    progress: impl FnMut(u64),
) -> Result<(), Failure> {
    let counted = Counted {
        inner: input,
        count: 0,
        told: 0,
        progress,
        stop: stop.clone(),
    };
    let mut archive = Archive::new(decompressed(counted).map_err(broken("reading its beginning"))?);
    let mut unpacking = Unpacking {
        below,
        apart,
        links,
        modes: Vec::new(),
    };
    for entry in archive.entries().map_err(broken("reading it"))? {
        unpacking.entry(entry.map_err(broken("reading an entry"))?)?;
    }
    unpacking.finish()
}

struct Unpacking<'a> {
    below: &'a Path,
    apart: Option<Apart<'a>>,
    links: Links,
    /// Directories made here; their modes are set last, since they may forbid writing.
    modes: Vec<(PathBuf, u32)>,
}

impl Unpacking<'_> {
    fn entry<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), Failure> {
        let name = entry.path().map_err(broken("reading a name"))?.into_owned();
        let shown = name.display().to_string();
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let inside = inside(&name).ok_or_else(|| refused(&shown, "it leads out of the archive"))?;
        let Some(inside) = inside else { return Ok(()) };
        self.make_parents(&inside)?;
        let path = self.below.join(&inside);
        let mode = entry
            .header()
            .mode()
            .map_err(broken(format!("reading {shown}")))?
            & 0o7777;
        let done = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let apart = self.apart(&inside);
                let folder = apart.as_deref().and_then(Path::parent);
                has_room(folder.unwrap_or(self.below), entry.size())?;
                let real = apart.as_ref().unwrap_or(&path);
                clear(&path)
                    .and_then(|()| clear(real))
                    .and_then(|()| write_file(real, &mut entry, mode))
                    .and_then(|()| apart.map_or(Ok(()), |real| symlink(real, &path)))
            }
            EntryType::Directory => self.make_directory(&path, mode),
            EntryType::Symlink => {
                let target = target(&entry, &shown)?;
                if self.links == Links::Inside && !stays(&inside, &target) {
                    return Err(refused(&shown, "its target is outside the archive"));
                }
                clear(&path).and_then(|()| symlink(&target, &path))
            }
            EntryType::Link => {
                let target = target(&entry, &shown)?;
                let Some(Some(target)) = crate::machine::archive::inside(&target) else {
                    return Err(refused(&shown, "its target is outside the archive"));
                };
                self.no_link_on_the_way(&target)?;
                clear(&path).and_then(|()| fs::hard_link(self.below.join(target), &path))
            }
            _ => {
                return Err(refused(
                    &shown,
                    "it is a device or something else that is no file",
                ));
            }
        };
        done.map_err(broken(format!("writing {}", path.display())))
    }

    fn finish(self) -> Result<(), Failure> {
        for (path, mode) in self.modes.iter().rev() {
            fs::set_permissions(path, Permissions::from_mode(*mode))
                .map_err(broken(format!("setting the mode of {}", path.display())))?;
        }
        Ok(())
    }

    fn make_directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            // made for an entry below it, before its own entry came
            Ok(found) if found.is_dir() => {
                if let Some(made) = self.modes.iter_mut().find(|(made, _)| made == path) {
                    made.1 = mode;
                    fs::set_permissions(path, Permissions::from_mode(mode | OPEN))?;
                }
                return Ok(());
            }
            Ok(_) => fs::remove_file(path)?,
            Err(_) => {}
        }
        // never wider than it will be, also if nobody comes to set its last mode
        DirBuilder::new().mode(mode | OPEN).create(path)?;
        self.modes.push((path.to_owned(), mode));
        Ok(())
    }

    fn make_parents(&mut self, inside: &Path) -> Result<(), Failure> {
        self.no_link_on_the_way(inside)?;
        let parents: Vec<_> = inside.ancestors().skip(1).collect();
        for parent in parents
            .into_iter()
            .rev()
            .filter(|parent| *parent != Path::new(""))
        {
            let path = self.below.join(parent);
            if !path.is_dir() {
                self.make_directory(&path, 0o755)
                    .map_err(broken(format!("making {}", path.display())))?;
            }
        }
        Ok(())
    }

    fn no_link_on_the_way(&self, inside: &Path) -> Result<(), Failure> {
        for parent in inside
            .ancestors()
            .skip(1)
            .filter(|parent| *parent != Path::new(""))
        {
            let found = fs::symlink_metadata(self.below.join(parent));
            if found.is_ok_and(|found| found.is_symlink()) {
                let why = format!("it leads through the link {}", parent.display());
                return Err(refused(&inside.display().to_string(), &why));
            }
        }
        Ok(())
    }

    /// Returns where a file is written that does not lie below.
    fn apart(&self, inside: &Path) -> Option<PathBuf> {
        let apart = self.apart?;
        let named = apart.names.iter().any(|name| inside == Path::new(name));
        named.then(|| apart.folder.join(inside.file_name().unwrap_or_default()))
    }
}

fn has_room(folder: &Path, size: u64) -> Result<(), Failure> {
    let free = files::free(folder)?;
    if free >= size.saturating_add(RESERVE) {
        return Ok(());
    }
    let folder = folder.display();
    let (free, size) = (free >> 20, size.div_ceil(1 << 20));
    Err(Failure::new(format!(
        "{folder} is too full: {free} MiB free, {size} MiB to write"
    ))
    .hint(format!(
        "free some space at `{folder}`; the same command goes on"
    ))
    .code("LF1201"))
}

fn refused(name: &str, why: &str) -> Failure {
    Failure::new(format!("refusing to unpack {name}"))
        .because(why)
        .code("LF1203")
}

/// Returns the name without its dots; none inside for the directory itself, none at all when it leads out.
fn inside(name: &Path) -> Option<Option<PathBuf>> {
    let mut out = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(Some(out).filter(|out| out != Path::new("")))
}

/// Whether a link's target stays inside, seen from where the link is.
fn stays(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count() - 1;
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

fn target<R: Read>(entry: &Entry<'_, R>, shown: &str) -> Result<PathBuf, Failure> {
    let target = entry
        .link_name()
        .map_err(broken(format!("reading {shown}")))?;
    Ok(target
        .ok_or_else(|| refused(shown, "it is a link to nothing"))?
        .into_owned())
}

/// Removes what is in the way of a file; a directory is not.
fn clear(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_file<R: Read>(path: &Path, entry: &mut Entry<'_, R>, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    io::copy(entry, &mut file)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    let mtime = entry.header().mtime().unwrap_or(0);
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime))
}

fn decompressed<'a, R: Read + 'a>(input: R) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(128 << 10, input);
    let mut magic = Vec::new();
    Read::take(&mut input, 6).read_to_end(&mut magic)?;
    let kind = magic.clone();
    let whole = BufReader::new(io::Cursor::new(magic).chain(input));
    Ok(match kind.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(whole))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}

/// Counts what is read, and stops when told to.
struct Counted<R, P> {
    inner: R,
    count: u64,
    told: u64,
    progress: P,
    stop: CancellationToken,
}

impl<R: Read, P: FnMut(u64)> Read for Counted<R, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the run was stopped"));
        }
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        // once per MiB is often enough to watch
        if read == 0 || self.count - self.told >= 1 << 20 {
            self.told = self.count;
            (self.progress)(self.count);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::MetadataExt};

    use super::*;

    struct Item(&'static str, EntryType, u32, &'static str);

    const KERNEL: Item = Item("kexec/bzImage", EntryType::Regular, 0o644, "linux");

    /// Writes names as they are: the tar crate's own builder would refuse the bad ones.
    fn tarball(items: &[Item]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for Item(name, kind, mode, content) in items {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_uid(65_534);
            header.set_gid(65_534);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            let link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if link {
                let field = &mut header.as_gnu_mut().unwrap().linkname;
                field[..content.len()].copy_from_slice(content.as_bytes());
            }
            let data = if link { "" } else { *content };
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8], below: &Path, links: Links) -> Result<(), Failure> {
        unpack_from(bytes, below, None, links, &CancellationToken::new(), |_| ())
    }

    #[track_caller]
    fn check_refused(items: &[Item], cause: &str) {
        for links in [Links::Inside, Links::Anywhere] {
            let outer = tempfile::tempdir().unwrap();
            let below = outer.path().join("below");
            fs::create_dir(&below).unwrap();
            let failure = unpacked(&tarball(items), &below, links).unwrap_err();
            assert_eq!(
                (failure.code.as_str(), failure.causes[0].as_str()),
                ("LF1203", cause)
            );
            assert_eq!(
                fs::read_dir(outer.path()).unwrap().count(),
                1,
                "wrote beside"
            );
        }
    }

    #[test]
    fn every_way_out_of_the_directory_is_refused() {
        use EntryType as T;
        check_refused(
            &[Item("/etc/passwd", T::Regular, 0o644, "x")],
            "it leads out of the archive",
        );
        check_refused(
            &[Item("../x", T::Regular, 0o644, "x")],
            "it leads out of the archive",
        );
        check_refused(
            &[Item("a/../../x", T::Regular, 0o644, "x")],
            "it leads out of the archive",
        );
        check_refused(
            &[Item("a/..", T::Directory, 0o755, "")],
            "it leads out of the archive",
        );
        check_refused(
            &[Item("x", T::Link, 0o644, "/etc/passwd")],
            "its target is outside the archive",
        );
        check_refused(
            &[Item("x", T::Link, 0o644, "../y")],
            "its target is outside the archive",
        );
        check_refused(
            &[
                Item("a", T::Symlink, 0o777, "."),
                Item("a/x", T::Regular, 0o644, "x"),
            ],
            "it leads through the link a",
        );
        check_refused(
            &[
                Item("a", T::Symlink, 0o777, "."),
                KERNEL,
                Item("x", T::Link, 0o644, "a/y"),
            ],
            "it leads through the link a",
        );
        let device = "it is a device or something else that is no file";
        check_refused(&[Item("sda", T::Block, 0o644, "")], device);
        check_refused(&[Item("null", T::Char, 0o644, "")], device);
        check_refused(&[Item("pipe", T::Fifo, 0o644, "")], device);
    }

    #[test]
    fn links_that_leave_are_refused_where_they_are_followed() {
        for target in ["/etc/passwd", "../../x", "y/../../.."] {
            let dir = tempfile::tempdir().unwrap();
            let bytes = tarball(&[Item("a/x", EntryType::Symlink, 0o777, target)]);
            let failure = unpacked(&bytes, dir.path(), Links::Inside).unwrap_err();
            assert_eq!(
                failure.causes,
                ["its target is outside the archive"],
                "{target}"
            );
            unpacked(&bytes, dir.path(), Links::Anywhere).unwrap();
            assert_eq!(
                fs::read_link(dir.path().join("a/x")).unwrap(),
                Path::new(target)
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let bytes = tarball(&[
            KERNEL,
            Item("kexec/k", EntryType::Symlink, 0o777, "../kexec/bzImage"),
        ]);
        unpacked(&bytes, dir.path(), Links::Inside).unwrap();
        assert_eq!(fs::read(dir.path().join("kexec/k")).unwrap(), b"linux");
    }

    #[test]
    fn large_files_lie_apart_and_are_found_in_their_places() {
        let (dir, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let items = [
            KERNEL,
            Item("kexec/run", EntryType::Regular, 0o755, "#!"),
            Item("other/bzImage", EntryType::Regular, 0o644, "x"),
            Item("kexec/bzImage", EntryType::Regular, 0o640, "again"),
        ];
        let apart = Some(Apart {
            names: &["kexec/bzImage"],
            folder: disk.path(),
        });
        let stop = CancellationToken::new();
        let bytes = tarball(&items);
        unpack_from(
            bytes.as_slice(),
            dir.path(),
            apart,
            Links::Inside,
            &stop,
            |_| (),
        )
        .unwrap();
        let path = dir.path().join("kexec/bzImage");
        assert_eq!(fs::read_link(&path).unwrap(), disk.path().join("bzImage"));
        assert_eq!(fs::read(&path).unwrap(), b"again");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1);
        for name in ["kexec/run", "other/bzImage"] {
            assert!(
                fs::symlink_metadata(dir.path().join(name))
                    .unwrap()
                    .is_file()
            );
        }
    }

    #[test]
    fn every_compression_is_told_apart() {
        let plain = tarball(&[KERNEL]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for bytes in [plain, gzip.finish().unwrap(), xz.finish().unwrap(), zstd] {
            let dir = tempfile::tempdir().unwrap();
            unpacked(&bytes, dir.path(), Links::Inside).unwrap();
            assert_eq!(
                fs::read(dir.path().join("kexec/bzImage")).unwrap(),
                b"linux"
            );
        }
    }

    #[test]
    fn modes_are_kept_and_so_are_those_of_directories_that_exist() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777
        };
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::set_permissions(dir.path().join("etc"), Permissions::from_mode(0o751)).unwrap();
        fs::write(dir.path().join("etc/key"), "old").unwrap();
        let before = mode("");
        let items = [
            Item("./", EntryType::Directory, 0o777, ""),
            Item("./etc", EntryType::Directory, 0o700, ""),
            Item("./etc/key", EntryType::Regular, 0o600, "new"),
            Item("./closed/run", EntryType::Regular, 0o4755, "x"),
            Item("./closed", EntryType::Directory, 0o500, ""),
        ];
        unpacked(&tarball(&items), dir.path(), Links::Anywhere).unwrap();
        assert_eq!(mode(""), before);
        assert_eq!((mode("etc"), mode("etc/key")), (0o751, 0o600));
        assert_eq!((mode("closed"), mode("closed/run")), (0o500, 0o4755));
        assert_eq!(fs::read(dir.path().join("etc/key")).unwrap(), b"new");
    }

    #[test]
    fn directory_is_never_wider_than_it_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let items = [
            Item("home/.ssh", EntryType::Directory, 0o700, ""),
            Item("home/.ssh/id", EntryType::Regular, 0o644, "key"),
            Item("home/pipe", EntryType::Fifo, 0o644, ""),
        ];
        // what breaks off half way never sets the last modes
        assert!(unpacked(&tarball(&items), dir.path(), Links::Anywhere).is_err());
        let mode = |name: &str| {
            let found = fs::metadata(dir.path().join(name)).unwrap();
            found.permissions().mode() & 0o7777
        };
        assert_eq!((mode("home"), mode("home/.ssh")), (0o755, 0o700));
    }

    #[test]
    fn links_and_owner_are_those_of_extra_files() {
        let dir = tempfile::tempdir().unwrap();
        let items = [
            Item("etc/link", EntryType::Symlink, 0o777, "/nix/store/x"),
            Item("etc/dangling", EntryType::Symlink, 0o777, "nowhere"),
            Item("etc/file", EntryType::Regular, 0o2750, "x"),
        ];
        unpacked(&tarball(&items), dir.path(), Links::Anywhere).unwrap();
        for (name, target) in [("etc/link", "/nix/store/x"), ("etc/dangling", "nowhere")] {
            let found = fs::read_link(dir.path().join(name)).unwrap();
            assert_eq!(found, Path::new(target));
        }
        let own = nix::unistd::geteuid().as_raw();
        for name in ["etc", "etc/link", "etc/file"] {
            let found = fs::symlink_metadata(dir.path().join(name)).unwrap();
            assert_eq!(found.uid(), own, "{name}: the archive says nobody");
        }
    }

    #[test]
    fn damaged_archive_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = zstd::encode_all(tarball(&[KERNEL]).as_slice(), 1).unwrap();
        bytes.truncate(bytes.len() / 2);
        assert!(unpacked(&bytes, dir.path(), Links::Inside).is_err());
    }

    #[test]
    fn stopping_stops_it() {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let result = unpack_from(
            tarball(&[KERNEL]).as_slice(),
            dir.path(),
            None,
            Links::Inside,
            &stop,
            |_| (),
        );
        assert!(result.is_err());
    }
}
