//! How the ranks of a job come up together: who reads first, whether all see the same, what looks wrong with how they were
//! started.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use crate::config::Config;
use crate::data::Side;
use crate::exit::InputError;
use crate::machine;
use crate::run::Ledger;
use crate::tokenizer::Tokenizers;
use crate::world::{apart, Machine, Mate, World};

use super::resources::Resources;

/// What the run reads: the leader first, who trains the tokenizer and writes the cache; the others find both.
pub(super) fn resources(
    world: &World,
    config: &Config,
    known: Option<(Tokenizers, String)>,
    run: &Path,
    cache: &Path,
    note: &mut dyn FnMut(String),
) -> Result<Resources> {
    if world.is_alone() {
        return Resources::load(config, known, cache, note);
    }
    let helpers = Helpers { world, run };
    if world.leads() {
        let resources = Resources::load_with(Some(&helpers), config, known, cache, note)?;
        helpers.end()?;
        return Ok(resources);
    }
    let tokenizers = helpers.help()?;
    let known = known.unwrap_or((tokenizers, "of this run".to_string()));
    Resources::load(config, Some(known), cache, note)
}

/// The ranks that encode the training text with the leader.
pub(super) struct Helpers<'a> {
    world: &'a World,
    run: &'a Path,
}

impl Helpers<'_> {
    /// The leader has the tokenizers: the others take them from the run folder.
    pub(super) fn begin(&self, tokenizers: &Tokenizers) -> Result<()> {
        // those of a run that goes on are there
        if Tokenizers::existing(self.run).is_none() {
            tokenizers.save(self.run)?;
        }
        self.world.lead(b"begin".to_vec())?;
        Ok(())
    }

    /// The ids of lines, of which each rank encodes its part.
    pub(super) fn encode(
        &self,
        tokenizers: &Tokenizers,
        side: Side,
        lines: &[&str],
    ) -> std::result::Result<Vec<Vec<u32>>, String> {
        let work = || -> Result<Vec<Vec<u32>>> {
            let mut job = vec![u8::from(side == Side::Target)];
            job.extend(serde_json::to_vec(lines)?);
            self.world.lead(job)?;
            let told = self.part(tokenizers, side, lines)?;
            Ok(told.into_iter().flatten().collect())
        };
        work().map_err(|e| format!("{e:#}"))
    }

    /// Nothing more is to be encoded.
    fn end(&self) -> Result<()> {
        self.world.lead(Vec::new())?;
        Ok(())
    }

    /// Encodes with the leader until it ends; the run's tokenizers.
    fn help(&self) -> Result<Tokenizers> {
        self.world.lead(Vec::new())?;
        let tokenizers = Tokenizers::load_saved(self.run).map_err(|e| not_shared(self.world, self.run, &e))?;
        loop {
            let job = self.world.lead(Vec::new())?;
            let Some((side, lines)) = job.split_first() else { return Ok(tokenizers) };
            let lines: Vec<String> = serde_json::from_slice(lines)?;
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            self.part(&tokenizers, if *side == 0 { Side::Source } else { Side::Target }, &lines)?;
        }
    }

    /// What each rank made of its part.
    fn part(&self, tokenizers: &Tokenizers, side: Side, lines: &[&str]) -> Result<Vec<Vec<Vec<u32>>>> {
        let (rank, size) = (self.world.rank(), self.world.size());
        let own = &lines[lines.len() * rank / size..lines.len() * (rank + 1) / size];
        let ids = own.par_chunks(256).map(|lines| encoded(tokenizers, side, lines)).collect::<Result<Vec<_>, _>>();
        // a line that can not be encoded ends the leader, whoever met it
        let told = self.world.gather(&serde_json::to_vec(&ids.map(|ids| ids.concat()))?)?;
        let read = |bytes: &Vec<u8>| -> Result<Vec<Vec<u32>>> {
            serde_json::from_slice::<std::result::Result<_, String>>(bytes)?.map_err(anyhow::Error::msg)
        };
        match self.world.leads() {
            true => told.iter().map(read).collect(),
            false => Ok(Vec::new()),
        }
    }
}

/// The ids of lines of one side.
pub(super) fn encoded(
    tokenizers: &Tokenizers,
    side: Side,
    lines: &[&str],
) -> std::result::Result<Vec<Vec<u32>>, String> {
    let tokenizer = match side {
        Side::Source => &tokenizers.source,
        Side::Target => &tokenizers.target,
    };
    tokenizer.encode_lines(lines).map_err(|e| e.to_string())
}

fn not_shared(world: &World, path: &Path, why: &dyn std::fmt::Display) -> InputError {
    InputError(format!(
        "{} does not see what rank 0 has written in {}: {why}\n  run_dir and data.cache_dir must be folders that all hosts \
         share",
        world.name_of(world.rank()),
        path.display()
    ))
}

/// The ranks of a job; nobody where this process is alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Mates {
    all: Vec<Mate>,
    /// Of ranks with GPUs: what connects these, or why nothing does.
    gpus: Option<std::result::Result<String, String>>,
}

/// What every rank says of itself, once all of them see the same run; their GPUs are connected from then on.
///
/// # Errors
/// Ranks that read another config or other text.
pub(super) fn meet(world: &World, config: &Config, ledger: &Ledger, device: &Device) -> Result<Mates> {
    if world.is_alone() {
        return Ok(Mates::default());
    }
    let data = format!("{} {}", ledger.data_fingerprint, ledger.tokenizer_fingerprint);
    let own = Machine {
        cores: machine::cores(),
        cores_of_host: machine::cores_of_host(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        computed_by: machine::computed_by(device),
        config: format!("{:032x}", xxh3_128(config.to_toml()?.as_bytes())),
        data: format!("{:032x}", xxh3_128(data.as_bytes())),
    };
    let mates = world.mates(&own)?;
    for (what, ranks) in [
        ("another config", apart(&mates, |machine| &machine.config)),
        ("other text, or another tokenizer,", apart(&mates, |machine| &machine.data)),
    ] {
        if !ranks.is_empty() {
            let who: Vec<String> = ranks.iter().map(|&rank| world.name_of(rank)).collect();
            return Err(InputError(format!("{} read {what} than rank 0", who.join(", "))).into());
        }
    }
    Ok(Mates { all: mates, gpus: world.connect(device)? })
}

/// What looks wrong with how the ranks were started.
pub(super) fn warnings(world: &World, Mates { all: mates, gpus }: &Mates) -> Vec<String> {
    let mut warnings = Vec::new();
    let names = |ranks: &[usize]| ranks.iter().map(|&rank| world.name_of(rank)).collect::<Vec<_>>().join(", ");
    for (what, ranks) in [
        ("runs another version of this program", apart(mates, |machine| &machine.version)),
        ("computes by other instructions", apart(mates, |machine| &machine.computed_by)),
    ] {
        if let Some(&first) = ranks.first() {
            let other = &mates[first].machine;
            let own = &mates[0].machine;
            warnings.push(format!(
                "{} {what} ({}, {}) than rank 0 ({}, {}): the bits of this run can not be repeated with other ranks",
                names(&ranks),
                other.version,
                other.computed_by,
                own.version,
                own.computed_by
            ));
        }
    }
    if let Some(Err(why)) = gpus {
        warnings.push(format!(
            "gradients go through the memory of the hosts, not from GPU to GPU: {why}; LD_LIBRARY_PATH with the folder of \
             NVIDIA's libnccl.so.2, or NMT_NCCL_LIB with its file, lets it be found"
        ));
    }
    let bound: Vec<usize> =
        (0..mates.len()).filter(|&rank| mates[rank].machine.cores == 1 && idle_cores(mates, rank) > 0).collect();
    if !bound.is_empty() {
        let of = mates[bound[0]].machine.cores_of_host;
        warnings.push(format!(
            "the launcher bound {} to one core of {of}: give each rank its share, with mpirun --bind-to none or --map-by \
             slot:PE=N, or srun --cpus-per-task=N",
            names(&bound)
        ));
    }
    warnings
}

/// Cores of a rank's host that no rank may use.
fn idle_cores(mates: &[Mate], rank: usize) -> usize {
    let here = mates.iter().filter(|mate| mate.host == mates[rank].host);
    let used: usize = here.map(|mate| mate.machine.cores).sum();
    mates[rank].machine.cores_of_host.saturating_sub(used)
}

/// Rows of the pre-flight table.
pub(super) fn rows(world: &World, Mates { all: mates, gpus }: &Mates) -> Vec<(&'static str, String)> {
    if world.is_alone() {
        return Vec::new();
    }
    let mut cores: Vec<usize> = mates.iter().map(|mate| mate.machine.cores).collect();
    cores.sort_unstable();
    cores.dedup();
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    let mut rows = vec![
        ("ranks", format!("{}; a rank sees {} cores", world.told(), cores.join(" or "))),
        ("mpi", world.library().unwrap_or_default().to_string()),
    ];
    rows.extend(gpus.iter().flatten().map(|library| ("nccl", library.clone())));
    rows
}
