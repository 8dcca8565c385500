//! The table written to a file every so often (MRT, RFC 6396): the newest under the configured name, those before
//! numbered, and never more than so many.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bgp::io::Speaker;
use config::MrtDump;
use tokio::time::MissedTickBehavior;

use crate::speaker::Find;
use crate::wire::MrtDumpView;

/// Longest time that one dump may take: a disk that hangs must not hold up the next one for ever.
const LIMIT: Duration = Duration::from_secs(300);

/// What became of the dumps so far. Whoever holds a clone sees the same counts.
#[derive(Debug, Clone, Default)]
pub struct Dumps(Arc<Mutex<MrtDumpView>>);

impl Dumps {
    /// Starts to write dumps where `dump` asks for them; none when nothing is asked for.
    pub fn start(find: Find, dump: Option<MrtDump>) -> Option<Dumps> {
        let dump = dump?;
        let file = dump.file.as_path().display().to_string();
        let dumps = Dumps(Arc::new(Mutex::new(MrtDumpView { file, ..MrtDumpView::default() })));
        tokio::spawn(dumps.clone().keep(find, dump));
        Some(dumps)
    }

    /// What a person is shown.
    pub fn view(&self) -> MrtDumpView {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, outcome: &io::Result<u64>) {
        let mut view = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(octets) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                view.written += 1;
                view.last_octets = Some(*octets);
                view.last_written_at = now.ok().map(|since| since.as_secs());
                view.last_error = None;
            }
            Err(error) => {
                view.failed += 1;
                view.last_error = Some(error.to_string());
            }
        }
    }

    /// Writes dumps until the daemon ends. While there is no speaker there is nothing to write.
    async fn keep(self, find: Find, dump: MrtDump) {
        let mut every = tokio::time::interval(Duration::from_secs(u64::from(dump.every_secs)));
        every.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            every.tick().await;
            let Some(speaker) = find() else { continue };
            let path = dump.file.as_path();
            let written = tokio::time::timeout(LIMIT, write(&speaker, path, dump.keep)).await;
            let outcome = written.unwrap_or_else(|_| {
                // Stopped halfway: what there is of it is worth nothing.
                let _ = std::fs::remove_file(numbered(path, "new"));
                Err(io::ErrorKind::TimedOut.into())
            });
            self.count(&outcome);
            match outcome {
                Ok(octets) => tracing::debug!(file = %path.display(), octets, "MRT dump written"),
                Err(error) => tracing::warn!(file = %path.display(), %error, "the MRT dump was not written"),
            }
        }
    }
}

/// Writes one dump beside `path`, then puts it there as a whole: whoever reads sees the former one or this one.
/// Returns its size in octets.
pub async fn write(speaker: &Speaker, path: &Path, keep: u32) -> io::Result<u64> {
    let fresh = numbered(path, "new");
    let mut file = std::fs::File::create(&fresh)?;
    let mut dump = speaker.dump().await;
    let mut octets = 0;
    while let Some(piece) = dump.next().await {
        octets += piece.len() as u64;
        let taken = file;
        let written = tokio::task::spawn_blocking(move || {
            let mut taken = taken;
            taken.write_all(&piece).map(|()| taken)
        });
        file = match written.await.map_err(io::Error::other)? {
            Ok(file) => file,
            Err(error) => {
                // A half dump is worth nothing, and the disk may be full of it.
                let _ = std::fs::remove_file(&fresh);
                return Err(error);
            }
        };
    }
    let (path, begun) = (path.to_owned(), fresh);
    let put = tokio::task::spawn_blocking(move || {
        file.sync_all()?;
        rotate(&path, keep)?;
        std::fs::rename(&begun, &path)
    });
    put.await.map_err(io::Error::other)??;
    Ok(octets)
}

fn numbered(path: &Path, end: impl std::fmt::Display) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{end}"));
    name.into()
}

/// Makes room: each dump takes the number of the next older one, and what is beyond `keep` goes. `path` itself stays
/// until the new dump takes its place.
fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let absent = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    for n in (2..keep).rev() {
        absent(std::fs::rename(numbered(path, n - 1), numbered(path, n)))?;
    }
    if keep > 1 {
        let second = numbered(path, 1);
        absent(std::fs::remove_file(&second))?;
        absent(std::fs::hard_link(path, &second))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever was there before, there are never more than so many, the newest first.
    #[test]
    fn only_so_many_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.mrt");
        for n in 0..6 {
            std::fs::write(numbered(&path, "new"), n.to_string()).unwrap();
            rotate(&path, 3).unwrap();
            std::fs::rename(numbered(&path, "new"), &path).unwrap();
            let read = |p: PathBuf| std::fs::read_to_string(p).ok();
            let seen = [read(path.clone()), read(numbered(&path, 1)), read(numbered(&path, 2))];
            let wanted = [0, 1, 2].map(|back| (n >= back).then(|| (n - back).to_string()));
            assert_eq!(seen, wanted);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        rotate(&path, 1).unwrap();
        assert!(path.exists());
    }

    /// A file that cannot be written is an error that names why, and leaves nothing.
    #[tokio::test]
    async fn a_folder_that_is_not_there_is_an_error() {
        let config = bgp::settings::SpeakerConfig::new(64512, [10, 255, 0, 1].into());
        let speaker = Speaker::start(config, Vec::new()).await.unwrap();
        let error = write(&speaker, Path::new("/nowhere/table.mrt"), 2).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.mrt");
        let octets = write(&speaker, &path, 2).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), octets);
        assert!(octets > 12, "a peer index table at least");
        write(&speaker, &path, 2).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    /// A dump that fails is counted with its reason; one that is written after it takes the reason away.
    #[tokio::test]
    async fn what_became_of_the_dumps_is_shown() {
        let config = bgp::settings::SpeakerConfig::new(64512, [10, 255, 0, 1].into());
        let speaker = Speaker::start(config, Vec::new()).await.unwrap();
        let dumps = Dumps::default();
        dumps.count(&write(&speaker, Path::new("/nowhere/table.mrt"), 2).await);
        let seen = dumps.view();
        assert_eq!((seen.written, seen.failed, seen.last_written_at), (0, 1, None));
        assert!(seen.last_error.unwrap().contains("No such file"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.mrt");
        dumps.count(&write(&speaker, &path, 2).await);
        let seen = dumps.view();
        assert_eq!((seen.written, seen.failed, seen.last_error), (1, 1, None));
        assert_eq!(seen.last_octets, Some(std::fs::metadata(&path).unwrap().len()));
        assert!(seen.last_written_at.is_some());
    }
}
