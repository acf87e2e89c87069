//! Having a container's image: look, pull, and say so in a kubelet's words
//! (pkg/kubelet/images/image_manager.go).

use super::{
    Teller,
    cri::{CriClient, CriError},
    keyring,
    reference::Reference,
    spec::ImageUser,
};
use crate::{
    decide::containers::Fault,
    model::{DesiredContainer, PullPolicy},
};
use k8s_cri::v1 as cri;
use std::time::{Duration, Instant};

/// Why there is no image.
#[derive(Debug)]
pub(super) enum NoImage {
    /// To be told on the container, and tried again later.
    Fault(Fault),
    /// The runtime is away: try again when it is back.
    Unreachable,
}

/// Makes sure of one container's image. Dropping the future gives a pull up.
pub(super) async fn ensure(
    client: &CriClient,
    container: &DesiredContainer,
    sandbox: cri::PodSandboxConfig,
    tell: &Teller,
) -> Result<ImageUser, NoImage> {
    let image = &container.image;
    let reference = Reference::parse(image).map_err(|error| {
        let message =
            format!("Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {error}");
        tell.container(container, true, "InspectFailed", &message);
        failed(container, tell, "InvalidImageName", message)
    })?;
    let present = || async {
        client.image(&reference.to_string()).await.map_err(|error| {
            if error.is_unreachable() {
                return NoImage::Unreachable;
            }
            let message = format!("Failed to inspect image \"{image}\": {}", error.rpc_text());
            tell.container(container, true, "InspectFailed", &message);
            failed(container, tell, "ImageInspectError", message)
        })
    };
    if container.pull_policy != PullPolicy::Always
        && let Some(found) = present().await?
    {
        let text = format!("Container image \"{image}\" already present on machine");
        tell.container(container, false, "Pulled", &text);
        return Ok(user(found));
    }
    if container.pull_policy == PullPolicy::Never {
        let message = format!("Container image \"{image}\" is not present with pull policy of Never");
        tell.container(container, true, "ErrImageNeverPull", &message);
        return Err(failed(container, tell, "ErrImageNeverPull", message));
    }
    tell.container(container, false, "Pulling", &format!("Pulling image \"{image}\""));
    let began = Instant::now();
    pull(client, container, &reference, sandbox).await.map_err(|error| {
        if error.is_unreachable() {
            return NoImage::Unreachable;
        }
        let cause = error.rpc_text();
        tell.container(container, true, "Failed", &format!("Failed to pull image \"{image}\": {cause}"));
        failed(container, tell, "ErrImagePull", cause)
    })?;
    let found = present().await?.ok_or_else(|| {
        failed(container, tell, "ErrImagePull", format!("image \"{image}\" is not there after its pull"))
    })?;
    let took = go_duration(began.elapsed());
    let text = format!(
        "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {} bytes.",
        found.size
    );
    tell.container(container, false, "Pulled", &text);
    Ok(user(found))
}

/// With each of the credentials that match, until one works; without any if there are none.
async fn pull(
    client: &CriClient,
    container: &DesiredContainer,
    reference: &Reference,
    sandbox: cri::PodSandboxConfig,
) -> Result<(), CriError> {
    let image = reference.to_string();
    let credentials = keyring::lookup(&container.pull_credentials, reference);
    let Some((last, others)) = credentials.split_last() else {
        return client.pull(&image, None, sandbox).await.map(drop);
    };
    let auth = |credential: &crate::model::RegistryCredential| {
        Some(cri::AuthConfig {
            username: credential.username.clone(),
            password: credential.password.clone(),
            ..Default::default()
        })
    };
    for credential in others {
        match client.pull(&image, auth(credential), sandbox.clone()).await {
            Err(error) if !error.is_unreachable() => {}
            done => return done.map(drop),
        }
    }
    client.pull(&image, auth(last), sandbox).await.map(drop)
}

/// The kubelet tells of every failed start in a second event, by its reason.
fn failed(container: &DesiredContainer, tell: &Teller, reason: &str, message: String) -> NoImage {
    tell.container(container, true, "Failed", &format!("Error: {reason}"));
    NoImage::Fault(Fault { reason: reason.to_owned(), message })
}

fn user(image: cri::Image) -> ImageUser {
    let uid = image.uid.map(|uid| uid.value);
    // An image that says nothing runs as root (pkg/kubelet/kuberuntime/helpers.go, `getImageUser`).
    let uid = if uid.is_none() && image.username.is_empty() { Some(0) } else { uid };
    ImageUser { image_ref: image.id, uid, name: image.username }
}

/// As Go prints a duration that is cut to milliseconds: `12ms`, `1.5s`, `2m3.004s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = format!("{}.{:03}", millis / 1000 % 60, millis % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match millis / 60_000 {
        0 => format!("{seconds}s"),
        minutes if minutes < 60 => format!("{minutes}m{seconds}s"),
        minutes => format!("{}h{}m{seconds}s", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_prints_them() {
        for (millis, text) in
            [(0, "0ms"), (999, "999ms"), (1500, "1.5s"), (60_000, "1m0s"), (123_004, "2m3.004s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
