//! Files in volumes.

use super::*;

pub(super) fn whole(object: ObjectRef, optional: bool) -> ProjectedSource {
    ProjectedSource::Object { object, items: vec![], optional }
}

fn item(key: &str, path: &str, mode: Option<u32>) -> KeyToPath {
    KeyToPath { key: key.into(), path: path.into(), mode }
}

/// Paths with their modes and contents as text.
fn listed(source: &DesiredVolumeSource) -> Vec<(String, u32, String)> {
    let DesiredVolumeSource::Files(files) = source else { panic!("no files: {source:?}") };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    files.iter().map(|file| (file.path.clone(), file.mode, text(&file.content))).collect()
}

#[test]
fn later_sources_of_a_projected_volume_take_the_place_of_earlier_ones() {
    let case = Case::new().config_map("c", &[("a", "1"), ("b", "2")]).secret("s", &[("b", b"secret")]);
    let items = vec![item("b", "b", Some(0o400)), item("b", "./deep//b", None)];
    let sources = vec![
        whole(ObjectRef::ConfigMap("c".into()), false),
        ProjectedSource::Object { object: ObjectRef::Secret("s".into()), items, optional: false },
        ProjectedSource::Downward(vec![DownwardFile {
            path: "annotations".into(),
            mode: None,
            value: field("metadata.annotations"),
        }]),
    ];
    let expected = [
        ("a", 0o644, "1"),
        ("annotations", 0o644, "note=\"two\\nlines\""),
        ("b", 0o400, "secret"),
        ("bin", 0o644, "\0\u{fffd}"),
        ("deep/b", 0o644, "secret"),
    ];
    let expected = expected.map(|(path, mode, text)| (path.to_owned(), mode, text.to_owned()));
    assert_eq!(listed(&case.files(sources)), expected);
}

#[test]
fn a_volume_whose_object_is_missing_blocks_with_the_words_of_a_failed_mount() {
    let missing = || {
        let mut case = Case::new().config_map("c", &[]);
        case.refs.config_maps.insert("x".into(), Fetched::Missing);
        case.refs.secrets.insert("y".into(), Fetched::Missing);
        case
    };
    let (x, y) = (ObjectRef::ConfigMap("x".into()), ObjectRef::Secret("y".into()));
    let blocked = |source: &DesiredVolumeSource| match source {
        DesiredVolumeSource::Blocked(why) => why.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        blocked(&missing().files(vec![whole(x.clone(), false)])),
        "MountVolume.SetUp failed for volume \"v\" : configmap \"x\" not found"
    );
    assert_eq!(
        blocked(&missing().files(vec![whole(x.clone(), false), whole(y, false)])),
        "MountVolume.SetUp failed for volume \"v\" : [configmap \"x\" not found, secret \"y\" not found]"
    );
    let items = vec![item("k", "k", None)];
    let object = ObjectRef::ConfigMap("c".into());
    let absent_key = ProjectedSource::Object { object: object.clone(), items: items.clone(), optional: false };
    assert!(blocked(&missing().files(vec![absent_key])).ends_with("configmap references non-existent config key: k"));
    let optional_key = ProjectedSource::Object { object, items, optional: true };
    assert!(listed(&missing().files(vec![whole(x, true), optional_key])).is_empty());
}

#[test]
fn no_file_ever_leaves_its_volume() {
    for path in ["../x", "/x", "a/../../x", "..hidden"] {
        let case = Case::new().config_map("c", &[("k", "v")]);
        let items = vec![item("k", path, None)];
        let object = ObjectRef::ConfigMap("c".into());
        let source = case.files(vec![ProjectedSource::Object { object, items, optional: false }]);
        assert!(matches!(source, DesiredVolumeSource::Blocked(_)), "{path}: {source:?}");
    }
    let below_a_file = vec![item("k", "a", None), item("k", "a/b", None)];
    let object = ObjectRef::ConfigMap("c".into());
    let source = ProjectedSource::Object { object, items: below_a_file, optional: false };
    let source = Case::new().config_map("c", &[("k", "v")]).files(vec![source]);
    assert!(matches!(source, DesiredVolumeSource::Blocked(_)), "{source:?}");
}

#[test]
fn a_token_is_a_file_that_fs_group_may_read() {
    let key = TokenKey { audience: None, expiration_seconds: 3607 };
    let source =
        || ProjectedSource::ServiceAccountToken { path: "token".into(), audience: None, expiration_seconds: 3607 };
    let waiting = Case::new().files(vec![source()]);
    assert!(matches!(waiting, DesiredVolumeSource::Blocked(_)));
    let with_token = || {
        let mut case = Case::new();
        case.refs.tokens.insert(key.clone(), Fetched::Found(Arc::new("t0ken".into())));
        case
    };
    assert_eq!(listed(&with_token().files(vec![source()])), [("token".to_owned(), 0o644, "t0ken".to_owned())]);
    let mut grouped = with_token();
    grouped.spec.security.fs_group = Some(7);
    assert_eq!(listed(&grouped.files(vec![source()]))[0].1, 0o640);
}
