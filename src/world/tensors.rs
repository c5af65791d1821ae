//! Tensors from rank to rank: from GPU to GPU where all ranks have one and NCCL connects them, else through the memory of the
//! hosts. All are of f32 and flat.

use candle_core::{DType, Device, Tensor};

use super::{Error, Job, Result, World};
use crate::ops::nccl::{Nccl, NcclLibrary};

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Library(error.to_string())
    }
}

impl World {
    /// Connects the GPUs of all ranks, each with its own: version of the library, or why tensors will go through the memory of
    /// the hosts. `None` on the CPU.
    ///
    /// # Errors
    /// A rank that does not come; what MPI says.
    pub fn connect(&self, device: &Device) -> Result<Option<Result<String, String>>> {
        let Some(job) = &self.job else { return Ok(None) };
        let connected = self.connected(job, device)?;
        Ok(device.is_cuda().then_some(connected))
    }

    fn connected(&self, job: &Job, device: &Device) -> Result<Result<String, String>> {
        // all ranks or none
        let found = match self.agreed(NcclLibrary::find(device))? {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        let new = if self.leads() { found.new_job().unwrap_or_default() } else { Vec::new() };
        let new = self.lead(new)?;
        let nccl = match self.agreed(found.join(&new, self.rank(), self.size()))? {
            Ok(nccl) => nccl,
            Err(why) => return Ok(Err(why)),
        };
        let library = nccl.library().to_string();
        // once a process: a second run of it goes on with the first connection
        let _ = job.gpus.set(nccl);
        Ok(Ok(library))
    }

    /// What this rank has, if all ranks have theirs; else what the first says that has not.
    fn agreed<T>(&self, own: Result<T, String>) -> Result<Result<T, String>> {
        let told = self.gather(own.as_ref().err().map_or(&[], |why| why.as_bytes()))?;
        let missing = told.iter().enumerate().find(|(_, why)| !why.is_empty());
        Ok(match missing {
            Some((rank, why)) => Err(format!("{}: {}", self.name_of(rank), String::from_utf8_lossy(why))),
            None => own,
        })
    }

    /// Each rank's numbers, one after the other, in all: `own` has as many as `counts` says of this rank.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn gather_parts(&self, own: &Tensor, counts: &[usize]) -> Result<Tensor> {
        let Some(job) = &self.job else { return Ok(own.clone()) };
        job.meet(Some(job.limit))?;
        let rank = self.rank();
        if let Some(nccl) = job.gpus_of(own) {
            let all = nccl.exchange(&vec![own.clone(); counts.len()], counts)?;
            return Ok(Tensor::cat(&all, 0)?);
        }
        let start = counts[..rank].iter().sum::<usize>();
        let mut all = vec![0f32; counts.iter().sum()];
        all[start..start + counts[rank]].copy_from_slice(&on_host(own)?);
        job.all_gather(&mut all, counts)?;
        Ok(Tensor::from_vec(all, counts.iter().sum::<usize>(), own.device())?)
    }
}

impl Job {
    /// The connection by which a tensor goes to other ranks.
    fn gpus_of(&self, tensor: &Tensor) -> Option<&Nccl> {
        self.gpus.get().filter(|_| tensor.device().is_cuda())
    }

    /// Cuts `addend` into `parts`, of which the r-th goes to rank r, and gives this rank's part of the addends of the first
    /// `present` ranks, in their order.
    pub(super) fn parts_of(&self, addend: &Tensor, parts: &[usize], present: usize) -> Result<Vec<Tensor>> {
        let (rank, size) = (self.mpi.rank, self.mpi.size);
        let mine = parts[rank];
        let mut start = 0;
        let mut cut = Vec::with_capacity(size);
        for &length in parts {
            cut.push(addend.narrow(0, start, length)?);
            start += length;
        }
        let received: Vec<usize> = (0..size).map(|other| if other < present { mine } else { 0 }).collect();
        if let Some(nccl) = self.gpus_of(addend) {
            let sent = if rank < present { &cut[..] } else { &[] };
            return Ok(nccl.exchange(sent, &received)?);
        }
        let nothing = vec![0; size];
        let (addend, sent) = if rank < present { (on_host(addend)?, parts) } else { (Vec::new(), &nothing[..]) };
        let mut found = vec![0f32; mine * present];
        self.timed(|| self.mpi.exchange((&addend, sent), (&mut found, &received))).map_err(Error::Library)?;
        let found = Tensor::from_vec(found, (present, mine), cut[rank].device())?;
        Ok((0..present).map(|other| found.get(other)).collect::<candle_core::Result<_>>()?)
    }
}

/// The numbers of a flat tensor.
fn on_host(tensor: &Tensor) -> Result<Vec<f32>> {
    match tensor.dtype() {
        DType::F32 => Ok(tensor.to_vec1::<f32>()?),
        other => Err(Error::Library(format!("numbers of {other:?} can not be shared between ranks"))),
    }
}
