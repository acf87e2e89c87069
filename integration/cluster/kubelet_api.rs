//! Who may call the port of a virtual node.

use crate::support::*;

const NODE: &str = "https://10.70.0.1:10260";

/// The status of a GET from inside the cluster's network, with a bearer token if it isn't empty.
fn get(path: &str, token: &str) -> (String, String) {
    let header = format!("Authorization: Bearer {token}");
    let url = format!("{NODE}{path}");
    let mut command = vec!["curl", "-sk", "--max-time", "20", "-w", "\n%{http_code}", &url];
    if !token.is_empty() {
        command.extend(["-H", &header]);
    }
    let text = Cluster::get().inside(&command);
    let (body, code) = text.rsplit_once('\n').expect("curl writes the status last");
    (code.to_owned(), body.to_owned())
}

#[tokio::test]
async fn a_stranger_is_turned_away() {
    for path in ["/pods", "/containerLogs/default/any/main", "/exec/default/any/main?command=id&output=1"] {
        let (code, body) = get(path, "");
        assert_eq!(code, "401", "{path}: {body}");
    }
    assert_eq!(get("/pods", "not-a-token").0, "401");
}

#[tokio::test]
async fn a_known_caller_without_the_right_is_told_which_right_it_lacks() {
    let space = Space::new("kubelet-api").await;
    let token = space.kubectl(&["create", "token", "default"]).await;
    let (code, body) = get("/pods", token.trim());
    assert_eq!(code, "403", "{body}");
    let user = format!("system:serviceaccount:{}:default", space.name);
    assert!(body.contains("Forbidden") && body.contains(&user) && body.contains("resource=nodes"), "{body}");
}

#[tokio::test]
async fn a_caller_with_the_right_is_served() {
    let space = Space::new("kubelet-api").await;
    let role = format!("kubelet-api-{}", space.name);
    let account = format!("--serviceaccount={}:default", space.name);
    space.kubectl(&["create", "clusterrole", &role, "--verb=get", "--resource=nodes/proxy"]).await;
    space.kubectl(&["create", "clusterrolebinding", &role, &format!("--clusterrole={role}"), &account]).await;
    space.apply(&pod("listed", spec(&[idle()]))).await;
    space.until_running("listed").await;
    let token = space.kubectl(&["create", "token", "default"]).await;
    let answers = ["/pods", "/runningpods/"].map(|path| (path, get(path, token.trim())));
    space.kubectl(&["delete", "clusterrole,clusterrolebinding", &role]).await;
    for (path, (code, body)) in answers {
        assert_eq!(code, "200", "{path}: {body}");
        let list: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let names = list["items"].as_array().expect("a list").iter().map(|p| &p["metadata"]["namespace"]);
        assert!(names.into_iter().any(|n| *n == space.name.as_str()), "{path}: {body}");
    }
}
