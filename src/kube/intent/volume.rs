//! Volumes. ConfigMap, Secret, downward API and projected volumes all become sets of files.

use super::{
    env, field_path,
    refuse::{Refusals, Rule},
};
use crate::model::{
    DownwardFile, EnvValue, KeyToPath, ObjectRef, ProjectedSource, VolumeSource, VolumeSpec, parse_units,
};
use k8s_openapi::api::core::v1 as api;

/// API defaults: pkg/apis/core/v1/defaults.go.
const DEFAULT_MODE: u32 = 0o644;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

pub(super) fn volumes(volumes: &[api::Volume], refusals: &mut Refusals) -> Vec<VolumeSpec> {
    volumes.iter().filter_map(|v| volume(v, refusals)).collect()
}

fn volume(volume: &api::Volume, refusals: &mut Refusals) -> Option<VolumeSpec> {
    let api::Volume {
        aws_elastic_block_store,
        azure_disk,
        azure_file,
        cephfs,
        cinder,
        config_map,
        csi,
        downward_api,
        empty_dir,
        ephemeral,
        fc,
        flex_volume,
        flocker,
        gce_persistent_disk,
        git_repo,
        glusterfs,
        host_path,
        image,
        iscsi,
        name,
        nfs,
        persistent_volume_claim,
        photon_persistent_disk,
        portworx_volume,
        projected,
        quobyte,
        rbd,
        scale_io,
        secret,
        storageos,
        vsphere_volume,
    } = volume;
    let set = [
        ("awsElasticBlockStore", aws_elastic_block_store.is_some()),
        ("azureDisk", azure_disk.is_some()),
        ("azureFile", azure_file.is_some()),
        ("cephfs", cephfs.is_some()),
        ("cinder", cinder.is_some()),
        ("csi", csi.is_some()),
        ("ephemeral", ephemeral.is_some()),
        ("fc", fc.is_some()),
        ("flexVolume", flex_volume.is_some()),
        ("flocker", flocker.is_some()),
        ("gcePersistentDisk", gce_persistent_disk.is_some()),
        ("glusterfs", glusterfs.is_some()),
        ("iscsi", iscsi.is_some()),
        ("nfs", nfs.is_some()),
        ("persistentVolumeClaim", persistent_volume_claim.is_some()),
        ("photonPersistentDisk", photon_persistent_disk.is_some()),
        ("portworxVolume", portworx_volume.is_some()),
        ("quobyte", quobyte.is_some()),
        ("rbd", rbd.is_some()),
        ("scaleIO", scale_io.is_some()),
        ("storageos", storageos.is_some()),
        ("vsphereVolume", vsphere_volume.is_some()),
    ];
    for (kind, _) in set.iter().filter(|(_, set)| *set) {
        let claim = persistent_volume_claim.as_ref().filter(|_| *kind == "persistentVolumeClaim");
        refusals.refuse_below(Rule::VolumeStorage, &[name], kind, claim.map_or("set", |claim| &claim.claim_name));
    }
    if let Some(api::ImageVolumeSource { pull_policy: _, reference }) = image {
        refusals.refuse(Rule::VolumeImage, &[name], reference.as_deref().unwrap_or("set"));
    }
    if let Some(git) = git_repo {
        refusals.refuse(Rule::VolumeRetired, &[name], &git.repository);
    }
    let refused = image.is_some() || git_repo.is_some() || set.iter().any(|(_, set)| *set);
    let source = if let Some(source) = empty_dir {
        empty_dir_of(name, source, refusals)
    } else if let Some(source) = host_path {
        host_path_of(name, source, refusals)
    } else if let Some(source) = config_map {
        let api::ConfigMapVolumeSource { default_mode, default_user, items, name: object, optional } = source;
        owner(name, default_user, refusals);
        files(
            *default_mode,
            vec![object_source(name, ObjectRef::ConfigMap(object.clone()), items, *optional, refusals)],
        )
    } else if let Some(source) = secret {
        let api::SecretVolumeSource { default_mode, default_user, items, optional, secret_name } = source;
        owner(name, default_user, refusals);
        let object = ObjectRef::Secret(secret_name.clone().unwrap_or_default());
        files(*default_mode, vec![object_source(name, object, items, *optional, refusals)])
    } else if let Some(source) = downward_api {
        let api::DownwardAPIVolumeSource { default_mode, default_user, items } = source;
        owner(name, default_user, refusals);
        files(*default_mode, vec![downward(name, items, refusals)])
    } else if let Some(source) = projected {
        let api::ProjectedVolumeSource { default_mode, default_user, sources } = source;
        owner(name, default_user, refusals);
        let sources = sources.iter().flatten().enumerate();
        files(*default_mode, sources.filter_map(|(i, s)| projection(name, i, s, refusals)).collect())
    } else if refused {
        return None;
    } else {
        // A volume without any source is an emptyDir (pkg/apis/core/v1/defaults.go, SetDefaults_Volume).
        VolumeSource::EmptyDir { memory: false, size_limit_bytes: None }
    };
    Some(VolumeSpec { name: name.clone(), source })
}

fn empty_dir_of(name: &str, source: &api::EmptyDirVolumeSource, refusals: &mut Refusals) -> VolumeSource {
    let api::EmptyDirVolumeSource { medium, mode, size_limit } = source;
    let memory = match medium.as_deref() {
        None | Some("") => false,
        Some("Memory") => true,
        Some(other) => {
            refusals.refuse(Rule::EmptyDirMedium, &[name], other);
            false
        }
    };
    if let Some(mode) = mode.filter(|mode| *mode != 0o777) {
        refusals.refuse(Rule::EmptyDirMode, &[name], format_args!("{mode:04o}"));
    }
    let size = size_limit.as_ref().map(|size| (size, parse_units(&size.0)));
    if let Some((size, None)) = size {
        refusals.refuse(Rule::EmptyDirSize, &[name], &size.0);
    }
    // A limit of 0 is none (pkg/volume/emptydir).
    VolumeSource::EmptyDir { memory, size_limit_bytes: size.and_then(|(_, bytes)| bytes).filter(|bytes| *bytes > 0) }
}

fn host_path_of(name: &str, source: &api::HostPathVolumeSource, refusals: &mut Refusals) -> VolumeSource {
    let api::HostPathVolumeSource { path, type_ } = source;
    let kind = type_.clone().unwrap_or_default();
    let kinds = ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
    if !kinds.contains(&kind.as_str()) {
        refusals.refuse(Rule::HostPathType, &[name], &kind);
    }
    VolumeSource::HostPath { path: path.clone(), kind }
}

fn files(default_mode: Option<i32>, sources: Vec<ProjectedSource>) -> VolumeSource {
    VolumeSource::Projected { sources, default_mode: mode(default_mode).unwrap_or(DEFAULT_MODE) }
}

fn mode(mode: Option<i32>) -> Option<u32> {
    mode.and_then(|mode| u32::try_from(mode).ok())
}

fn owner(volume: &str, user: &Option<i64>, refusals: &mut Refusals) {
    if let Some(user) = user {
        refusals.refuse(Rule::FileOwner, &[volume], user);
    }
}

fn item_owner(volume: &str, path: &str, user: &Option<i64>, refusals: &mut Refusals) {
    if let Some(user) = user {
        refusals.refuse(Rule::ItemOwner, &[volume, path], user);
    }
}

fn object_source(
    volume: &str,
    object: ObjectRef,
    items: &Option<Vec<api::KeyToPath>>,
    optional: Option<bool>,
    refusals: &mut Refusals,
) -> ProjectedSource {
    let mut item = |api::KeyToPath { key, mode: own, path, user }: &api::KeyToPath| {
        item_owner(volume, path, user, refusals);
        KeyToPath { key: key.clone(), path: path.clone(), mode: mode(*own) }
    };
    let items = items.iter().flatten().map(&mut item).collect();
    ProjectedSource::Object { object, items, optional: optional.unwrap_or(false) }
}

fn downward(volume: &str, items: &Option<Vec<api::DownwardAPIVolumeFile>>, refusals: &mut Refusals) -> ProjectedSource {
    let file = |file: &api::DownwardAPIVolumeFile| {
        let api::DownwardAPIVolumeFile { field_ref, mode: own, path, resource_field_ref, user } = file;
        item_owner(volume, path, user, refusals);
        let value = match (field_ref, resource_field_ref) {
            (Some(api::ObjectFieldSelector { api_version, field_path }), _) => {
                let field = field_path::for_file(api_version.as_deref(), field_path);
                if field.is_none() {
                    refusals.refuse(Rule::DownwardFile, &[volume, path], field_path);
                }
                EnvValue::Field(field?)
            }
            (None, Some(reference)) => {
                let field = env::resource_field(reference).filter(|field| field.container.is_some());
                if field.is_none() {
                    refusals.refuse(Rule::DownwardResource, &[volume, path], &reference.resource);
                }
                EnvValue::ResourceField(field?)
            }
            (None, None) => {
                refusals.refuse(Rule::DownwardFile, &[volume, path], "nothing");
                return None;
            }
        };
        Some(DownwardFile { path: path.clone(), mode: mode(*own), value })
    };
    ProjectedSource::Downward(items.iter().flatten().filter_map(file).collect())
}

fn projection(
    volume: &str,
    index: usize,
    source: &api::VolumeProjection,
    refusals: &mut Refusals,
) -> Option<ProjectedSource> {
    let api::VolumeProjection {
        cluster_trust_bundle,
        config_map,
        downward_api,
        pod_certificate,
        secret,
        service_account_token,
    } = source;
    let at = index.to_string();
    if let Some(bundle) = cluster_trust_bundle {
        refusals.refuse(Rule::TrustBundle, &[volume, &at], &bundle.path);
        return None;
    }
    if let Some(certificate) = pod_certificate {
        refusals.refuse(Rule::PodCertificate, &[volume, &at], &certificate.signer_name);
        return None;
    }
    if let Some(api::ConfigMapProjection { items, name, optional }) = config_map {
        return Some(object_source(volume, ObjectRef::ConfigMap(name.clone()), items, *optional, refusals));
    }
    if let Some(api::SecretProjection { items, name, optional }) = secret {
        return Some(object_source(volume, ObjectRef::Secret(name.clone()), items, *optional, refusals));
    }
    if let Some(api::DownwardAPIProjection { items }) = downward_api {
        return Some(downward(volume, items, refusals));
    }
    if let Some(api::ServiceAccountTokenProjection { audience, expiration_seconds, path, user }) = service_account_token
    {
        item_owner(volume, path, user, refusals);
        return Some(ProjectedSource::ServiceAccountToken {
            path: path.clone(),
            audience: super::non_empty(audience),
            expiration_seconds: super::at_least_zero(expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS)),
        });
    }
    refusals.refuse(Rule::ProjectedSource, &[volume, &at], "nothing");
    None
}
