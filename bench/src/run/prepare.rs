//! Objects before the rounds and after them: written when the right ones are not
//! there, deleted when that is asked for.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::endpoint::Site;
use super::round::{Outcome, Shot};
use super::scenario::Course;
use super::{BenchError, Run};
use crate::client::{Stage, Target};
use crate::process::Processes;
use crate::workload::{Object, Pattern, Schedule, Workload};

/// Times objects are tried to be written; what is there is skipped.
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

impl Run {
    /// The bucket and the objects of all rounds.
    pub(super) fn prepare(&self, site: &Site, course: &Course) -> Result<(), BenchError> {
        let Some(target) = &site.prepare else {
            return Ok(());
        };
        // The bucket may be known to the endpoint and not to the store behind it.
        for target in [&site.target, target] {
            self.ensure(target, course, Pattern::Bucket, 0, 1, "bucket")?;
        }
        self.write_objects(target, course, 0, course.prepared)
    }

    /// The objects one round uses up.
    pub(super) fn prepare_round(&self, site: &Site, course: &mut Course) -> Result<(), BenchError> {
        let Some((from, to)) = course.prepared_for_round(&self.plan) else {
            return Ok(());
        };
        course.used_until(to);
        let target = site.prepare.as_ref().unwrap_or(&site.target);
        self.write_objects(target, course, from, to)
    }

    fn write_objects(
        &self,
        target: &Target,
        course: &Course,
        from: u64,
        to: u64,
    ) -> Result<(), BenchError> {
        match &self.plan.prepare_dir {
            _ if from >= to => Ok(()),
            Some(dir) => self.write_files(&dir.clone(), course, from, to),
            None => self.ensure(target, course, Pattern::Ensure, from, to, "prepare"),
        }
    }

    fn ensure(
        &self,
        target: &Target,
        course: &Course,
        pattern: Pattern,
        from: u64,
        to: u64,
        title: &str,
    ) -> Result<(), BenchError> {
        let mut why = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(BETWEEN_TRIES);
            }
            let outcome = self.each(target, course, pattern, (from, to), title, false)?;
            if outcome.tally.failures() == 0 || self.stop.is_set() {
                return Ok(());
            }
            why = outcome.tally.examples.join("; ");
        }
        Err(BenchError::Prepare(format!(
            "{}: {why}",
            target.address.url
        )))
    }

    /// Deletes all that was prepared and written.
    pub(super) fn cleanup(&self, sites: &[Site], courses: &[Course]) -> Result<(), BenchError> {
        for (site, course) in sites.iter().zip(courses) {
            let ours = course.takes_new() || site.prepare.is_some();
            if !ours || course.used == 0 {
                continue;
            }
            let range = (0, course.used);
            let outcome = self.each(
                &site.target,
                course,
                Pattern::Delete,
                range,
                "cleanup",
                true,
            )?;
            if outcome.tally.failures() > 0 {
                let why = outcome.tally.examples.join("; ");
                self.progress
                    .warn(&format!("not all objects could be deleted: {why}"));
            }
        }
        Ok(())
    }

    /// One request for each index, as fast as it goes.
    pub(super) fn each(
        &self,
        target: &Target,
        course: &Course,
        pattern: Pattern,
        (from, to): (u64, u64),
        title: &str,
        always: bool,
    ) -> Result<Outcome, BenchError> {
        let connections = u64::from(self.plan.prepare_concurrency)
            .min(to - from)
            .max(1);
        self.shoot(&Shot {
            target,
            processes: &Processes::default(),
            warmup: None,
            stage: Stage {
                workload: Workload {
                    space: course.space.clone(),
                    pattern,
                    objects: to,
                    base: from,
                    seed: self.plan.seed,
                },
                schedule: Schedule::default(),
                versions: None,
            },
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            new_objects: false,
            always,
            title: format!("{title} {} objects", to - from),
        })
    }

    /// As files of a directory another program serves. Each is renamed into place
    /// when it is complete.
    fn write_files(
        &self,
        dir: &Path,
        course: &Course,
        from: u64,
        to: u64,
    ) -> Result<(), BenchError> {
        for index in from..to {
            if self.stop.is_set() {
                break;
            }
            let path = dir.join(course.space.key(index));
            let object = course.space.object(index);
            let there = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == object.size);
            if !there {
                let written = self.write_file(&path, object);
                written.map_err(BenchError::io(format!("writing {}", path.display())))?;
            }
        }
        Ok(())
    }

    fn write_file(&self, path: &Path, object: Object) -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let partial = path.with_extension("partial");
        let mut file = fs::File::create(&partial)?;
        let mut done = 0;
        while done < object.size {
            let bytes = self.content.slice(object.content, done, object.size - done);
            file.write_all(bytes)?;
            done += bytes.len() as u64;
        }
        drop(file);
        fs::rename(&partial, path)
    }
}
