//! What is mounted into one start of a container.

use super::{PodDir, VolumeError, set_mode, subpath};
use crate::model::{DesiredContainer, DesiredMount, DesiredPod, DesiredVolumeSource, MountPropagation};
use k8s_cri::v1 as cri;
use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};

const ETC_HOSTS: &str = "/etc/hosts";

/// The volume mounts, then /etc/hosts and the termination message's file. Binds subPaths and makes the
/// file on the way.
pub(in crate::agent::pod) fn of_container(
    pod: &DesiredPod,
    container: &DesiredContainer,
    number: u32,
    dir: &PodDir,
) -> Result<Vec<cri::Mount>, VolumeError> {
    let mut mounts = Vec::with_capacity(container.mounts.len() + 2);
    for (index, mount) in container.mounts.iter().enumerate() {
        mounts.push(of_volume(pod, container, index, mount, dir)?);
    }
    let covered = container.mounts.iter().any(|mount| mount.path == ETC_HOSTS);
    if !pod.host_network && !covered {
        mounts.push(plain(ETC_HOSTS, &dir.hosts()));
    }
    if !container.termination_message.path.is_empty() {
        let file = termination_file(&dir.termination_message(&container.name, number))?;
        mounts.push(plain(&container.termination_message.path, &file));
    }
    Ok(mounts)
}

fn plain(container_path: &str, host_path: &Path) -> cri::Mount {
    cri::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// Empty, and open to every user a container may run as.
fn termination_file(path: &Path) -> Result<PathBuf, VolumeError> {
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(VolumeError::file("make the directory of", path))?;
    OpenOptions::new().create(true).write(true).truncate(true).open(path).map_err(VolumeError::file("make", path))?;
    set_mode(path, 0o666)?;
    Ok(path.to_owned())
}

fn of_volume(
    pod: &DesiredPod,
    container: &DesiredContainer,
    index: usize,
    mount: &DesiredMount,
    dir: &PodDir,
) -> Result<cri::Mount, VolumeError> {
    let fault = |reason: String| VolumeError::SubPath {
        mount: mount.volume.clone(),
        container: container.name.clone(),
        reason,
    };
    let volume = pod
        .volumes
        .iter()
        .find(|volume| volume.name == mount.volume)
        .ok_or_else(|| fault("there is no such volume".to_owned()))?;
    let (source, must_read) = match &volume.source {
        DesiredVolumeSource::HostPath { path, .. } => (PathBuf::from(path), false),
        DesiredVolumeSource::EmptyDir { .. } => (dir.volume(&volume.name), false),
        // Written by us alone (pkg/volume: their Attributes say ReadOnly).
        DesiredVolumeSource::Files(_) | DesiredVolumeSource::Blocked(_) => (dir.volume(&volume.name), true),
    };
    let host_path = match mount.sub_path.as_deref().filter(|sub| !sub.is_empty()) {
        None => source,
        Some(sub) => {
            let target = dir.sub_path(&container.name, index);
            subpath::bind(&source, sub, &target).map_err(|error| fault(error.to_string()))?;
            target
        }
    };
    let readonly = mount.read_only || must_read;
    Ok(cri::Mount {
        readonly,
        recursive_read_only: mount.recursive_read_only && readonly,
        propagation: match mount.propagation {
            MountPropagation::None => cri::MountPropagation::PropagationPrivate,
            MountPropagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
            MountPropagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
        }
        .into(),
        ..plain(&mount.path, &host_path)
    })
}
