//! All refusals there are, in one list, and the basket that collects those of one Pod.

use crate::model::Unsupported;
use std::fmt::Display;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident: $field:literal => $expected:literal;)*) => {
        /// Why a field is refused. [`Rule::field`] has `[]` where an element's name goes, `<probe>` and
        /// `<hook>` for a key's, and says `spec.containers[]` for init containers too.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            pub const ALL: &[Rule] = &[$(Rule::$name,)*];

            pub fn field(self) -> &'static str {
                match self { $(Self::$name => $field,)* }
            }
            /// What would be accepted, as the message says it.
            pub fn expected(self) -> &'static str {
                match self { $(Self::$name => $expected,)* }
            }
        }
    };
}

rules! {
    /// Many tolerate every taint; the scheduler binds them to each node there is.
    DaemonSet: "metadata.ownerReferences[]" => "another controller: a DaemonSet's Pod would cost an instance of its own on every virtual node (node affinity `type NotIn virtual-kubelet` keeps it away)";

    HostUsers: "spec.hostUsers" => "true or unset (the instance itself isolates the Pod)";
    Os: "spec.os.name" => "linux";
    RuntimeClass: "spec.runtimeClassName" => "unset: every Pod already has a machine of its own";
    ResourceClaims: "spec.resourceClaims[]" => "none: devices can't be claimed";
    RestartPolicy: "spec.restartPolicy" => "Always, OnFailure or Never";
    DnsPolicy: "spec.dnsPolicy" => "ClusterFirst, ClusterFirstWithHostNet, Default or None";
    HostAliasIp: "spec.hostAliases[].ip" => "an IP address";
    Overhead: "spec.overhead[]" => "an amount of cpu, memory or ephemeral-storage";
    PodRequests: "spec.resources.requests[]" => "an amount of cpu, memory or ephemeral-storage";
    PodLimits: "spec.resources.limits[]" => "limits on the containers: a limit for the whole Pod is not enforced";
    PodResourceClaim: "spec.resources.claims[]" => "none: devices can't be claimed";

    Sysctl: "spec.securityContext.sysctls[]" => "one of Kubernetes' safe sysctls, in a namespace of the Pod's own";
    SupplementalGroupsPolicy: "spec.securityContext.supplementalGroupsPolicy" => "Merge or unset";
    PodAppArmor: "spec.securityContext.appArmorProfile" => "Unconfined or unset: AppArmor can't be enforced";
    PodSeLinux: "spec.securityContext.seLinuxOptions" => "unset: SELinux can't be enforced";
    PodSeccomp: "spec.securityContext.seccompProfile" => "RuntimeDefault, Unconfined, or Localhost with a profile's path";
    PodWindows: "spec.securityContext.windowsOptions" => "unset: instances run Linux";

    Image: "spec.containers[].image" => "an image's name";
    PullPolicy: "spec.containers[].imagePullPolicy" => "Always, IfNotPresent or Never";
    ContainerRestartPolicy: "spec.containers[].restartPolicy" => "unset or the Pod's own (an init container may say Always: a sidecar)";
    ContainerRestartRules: "spec.containers[].restartPolicyRules" => "unset";
    VolumeDevices: "spec.containers[].volumeDevices[]" => "none: block devices are not supported yet";
    Requests: "spec.containers[].resources.requests[]" => "an amount of cpu, memory or ephemeral-storage";
    Limits: "spec.containers[].resources.limits[]" => "an amount of cpu, memory or ephemeral-storage";
    Claims: "spec.containers[].resources.claims[]" => "none: devices can't be claimed";
    TerminationMessagePolicy: "spec.containers[].terminationMessagePolicy" => "File or FallbackToLogsOnError";
    Port: "spec.containers[].ports[].containerPort" => "a port number from 1 to 65535";
    HostPort: "spec.containers[].ports[].hostPort" => "a port number from 1 to 65535";
    HostIp: "spec.containers[].ports[].hostIP" => "an IP address";
    PortProtocol: "spec.containers[].ports[].protocol" => "TCP, UDP or SCTP";
    EnvSource: "spec.containers[].env[].valueFrom" => "exactly one of configMapKeyRef, secretKeyRef, fieldRef and resourceFieldRef";
    EnvFile: "spec.containers[].env[].valueFrom.fileKeyRef" => "a ConfigMap's or Secret's key";
    EnvField: "spec.containers[].env[].valueFrom.fieldRef" => "a field that the downward API gives to env";
    EnvResource: "spec.containers[].env[].valueFrom.resourceFieldRef" => "limits or requests of cpu, memory or ephemeral-storage";
    EnvFromSource: "spec.containers[].envFrom[]" => "a configMapRef or a secretRef";
    MountOptions: "spec.containers[].volumeMounts[].bindMountOptions" => "unset";
    MountPropagation: "spec.containers[].volumeMounts[].mountPropagation" => "None, HostToContainer or Bidirectional";
    MountRecursive: "spec.containers[].volumeMounts[].recursiveReadOnly" => "Disabled, or IfPossible or Enabled on a read-only mount";

    AppArmor: "spec.containers[].securityContext.appArmorProfile" => "Unconfined or unset: AppArmor can't be enforced";
    SeLinux: "spec.containers[].securityContext.seLinuxOptions" => "unset: SELinux can't be enforced";
    Seccomp: "spec.containers[].securityContext.seccompProfile" => "RuntimeDefault, Unconfined, or Localhost with a profile's path";
    ProcMount: "spec.containers[].securityContext.procMount" => "Default or Unmasked";
    Windows: "spec.containers[].securityContext.windowsOptions" => "unset: instances run Linux";

    StopSignal: "spec.containers[].lifecycle.stopSignal" => "unset: the image's stop signal is used";
    HookHandler: "spec.containers[].lifecycle.<hook>" => "one of exec, httpGet and sleep (tcpSocket never did anything)";
    HookPort: "spec.containers[].lifecycle.<hook>.httpGet.port" => "a port number, or the name of one of the container's ports";
    HookProtocol: "spec.containers[].lifecycle.<hook>.httpGet.protocol" => "HTTP/1.1 (unset)";
    HookScheme: "spec.containers[].lifecycle.<hook>.httpGet.scheme" => "HTTP or HTTPS";
    ProbeHandler: "spec.containers[].<probe>" => "one of exec, httpGet, tcpSocket and grpc";
    ProbePort: "spec.containers[].<probe>.port" => "a port number, or the name of one of the container's ports";
    ProbeProtocol: "spec.containers[].<probe>.httpGet.protocol" => "HTTP/1.1 (unset)";
    ProbeScheme: "spec.containers[].<probe>.httpGet.scheme" => "HTTP or HTTPS";
    ProbeGrpcMode: "spec.containers[].<probe>.grpc.mode" => "Plaintext or unset";

    /// Storage of other kinds than those an instance makes by itself.
    VolumeStorage: "spec.volumes[]" => "not supported yet: emptyDir, configMap, secret, downwardAPI, projected and hostPath are";
    VolumeImage: "spec.volumes[].image" => "not supported yet: put the files in the container's image";
    VolumeRetired: "spec.volumes[].gitRepo" => "an init container that clones into an emptyDir";
    EmptyDirMedium: "spec.volumes[].emptyDir.medium" => "Memory or unset";
    EmptyDirMode: "spec.volumes[].emptyDir.mode" => "0777 or unset";
    EmptyDirSize: "spec.volumes[].emptyDir.sizeLimit" => "an amount of bytes";
    HostPathType: "spec.volumes[].hostPath.type" => "unset, DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice or BlockDevice";
    FileOwner: "spec.volumes[].defaultUser" => "unset (files belong to root, and to fsGroup's group)";
    ItemOwner: "spec.volumes[].items[].user" => "unset (files belong to root, and to fsGroup's group)";
    DownwardFile: "spec.volumes[].items[].fieldRef" => "a field that the downward API gives to files";
    DownwardResource: "spec.volumes[].items[].resourceFieldRef" => "limits or requests of cpu, memory or ephemeral-storage, and the container's name";
    ProjectedSource: "spec.volumes[].projected.sources[]" => "exactly one of configMap, secret, downwardAPI and serviceAccountToken";
    TrustBundle: "spec.volumes[].projected.sources[].clusterTrustBundle" => "a ConfigMap with the certificates";
    PodCertificate: "spec.volumes[].projected.sources[].podCertificate" => "a Secret with the certificate";
}

/// The refusals of one Pod: all of them, so that its owner mends them in one go.
#[derive(Default)]
pub(super) struct Refusals {
    all: Vec<Unsupported>,
    /// Inside an init container, `spec.containers` in a rule's field reads `spec.initContainers`.
    init: bool,
    /// The container that every rule about containers is about now.
    container: Option<String>,
}

impl Refusals {
    /// `names` fill the gaps in the rule's field, after the container's own.
    pub fn refuse(&mut self, rule: Rule, names: &[&str], value: impl Display) {
        let field = self.path(rule.field(), names);
        self.all.push(Unsupported { field, value: value.to_string(), expected: rule.expected().to_owned() });
    }

    /// Refuses an element below the field that the rule names: `spec.volumes[data].nfs` for `spec.volumes[]`.
    pub fn refuse_below(&mut self, rule: Rule, names: &[&str], below: &str, value: impl Display) {
        let field = format!("{}.{below}", self.path(rule.field(), names));
        self.all.push(Unsupported { field, value: value.to_string(), expected: rule.expected().to_owned() });
    }

    /// From here on, rules about containers are about this one.
    pub fn enter_container(&mut self, name: &str, init: bool) {
        self.container = Some(name.to_owned());
        self.init = init;
    }

    pub fn into_result<T>(self, value: T) -> Result<T, Vec<Unsupported>> {
        if self.all.is_empty() { Ok(value) } else { Err(self.all) }
    }

    fn path(&self, pattern: &str, names: &[&str]) -> String {
        let of_container = pattern.starts_with("spec.containers[]");
        let mut names = self.container.as_deref().filter(|_| of_container).into_iter().chain(names.iter().copied());
        let mut path = String::new();
        let mut rest = pattern;
        if of_container && self.init {
            path.push_str("spec.initContainers");
            rest = rest.trim_start_matches("spec.containers");
        }
        while let Some(at) = rest.find(['[', '<']) {
            let (before, after) = rest.split_at(at);
            let name = names.next().unwrap_or_default();
            path.push_str(before);
            if let Some(after) = after.strip_prefix("[]") {
                path.push_str(&format!("[{name}]"));
                rest = after;
            } else {
                path.push_str(name);
                rest = after.split_once('>').map_or("", |(_, after)| after);
            }
        }
        path + rest
    }
}
