# shellcheck shell=bash
# Knative Serving in a test cluster: its parts are processes in the cluster's
# network (scripts/cluster up --knative reads this file).
#
# webhook      10.70.0.1:8443, called by the API server
# autoscaler   10.70.0.1:8080, where the activator sends what it counts
# activator    10.70.0.1:8012 (HTTP/1) and :8013 (HTTP/2)
# controller   in a network namespace of its own behind a veth: its health port
#              is the autoscaler's port, and neither can be told otherwise
# gateway      10.70.0.1:80 and :443 for everyone, :8081 for the cluster: `pilotlight
#              gateway` of this checkout (target/debug, or $PILOTLIGHT_PROGRAM);
#              without it there is no ingress, and no Service becomes Ready
#
# Each has a mount namespace in which names of the cluster resolve: by
# /etc/hosts those that must resolve without kube-proxy, all others by the
# cluster's DNS.
#
# KNATIVE_STABLE_WINDOW and KNATIVE_GRACE say how long the autoscaler looks back
# and how long the way to zero takes at least (6s each; Serving's own defaults
# are 60s and 30s). Change them with another `up`.

# shellcheck disable=SC2154 # scripts/cluster sets bin, name, state, machine, …

knative_bin=$repo/target/tools/knative/bin
knative_config=$repo/target/tools/knative/config
# shellcheck disable=SC2034 # scripts/cluster reads it
knative_parts=(knative-webhook knative-controller knative-autoscaler knative-activator)
knative_gateway=${PILOTLIGHT_PROGRAM:-$repo/target/debug/pilotlight}
[[ ! -x $knative_gateway ]] || knative_parts+=(knative-gateway)
knative_ingress_class=pilotlight.ingress.networking.knative.dev
knative_controller_net=10.70.1 # .1 is the cluster's end, .2 the controller's

# The namespace and names by which Serving knows itself, and what else differs.
spawn_knative() {
  local part=$1
  shift
  # shellcheck disable=SC2016 # expanded inside
  spawn "$part" nsenter --net="$netns_file" -- unshare --mount --propagation slave -- \
    env KUBECONFIG="$state/admin-inside.kubeconfig" SYSTEM_NAMESPACE=knative-serving \
    CONFIG_LOGGING_NAME=config-logging CONFIG_OBSERVABILITY_NAME=config-observability \
    CONFIG_LEADERELECTION_NAME=config-leader-election \
    POD_NAME="${part#knative-}" POD_IP="$machine" KUBE_API_QPS=200 KUBE_API_BURST=400 \
    bash -euc 'for file in hosts resolv.conf; do
        [[ ! -e /etc/$file ]] || mount --bind "$0/knative-$file" "/etc/$file"
      done
      exec "$@"' "$state/conf" "$@"
}

start_knative_part() {
  local part=$1
  case $part in
    knative-webhook)
      spawn_knative "$part" env PROFILING_PORT=18008 WEBHOOK_NAME=webhook WEBHOOK_PORT=8443 "$knative_bin/webhook"
      ;;
    knative-controller)
      # The veth goes with the namespace, and that with the process.
      # shellcheck disable=SC2016 # expanded inside
      spawn_knative "$part" env PROFILING_PORT=18009 unshare --net -- bash -euc '
        within() { nsenter --net="$1" -- ip "${@:2}"; }
        within "$1" link del kn-controller 2>/dev/null || true
        within "$1" link add kn-controller type veth peer name eth0 netns $$
        within "$1" addr add "$2.1/30" dev kn-controller
        within "$1" link set kn-controller up
        ip addr add "$2.2/30" dev eth0
        ip link set lo up
        ip link set eth0 up
        ip route add default via "$2.1"
        exec "$3"' bash "$netns_file" "$knative_controller_net" "$knative_bin/controller"
      ;;
    knative-autoscaler) spawn_knative "$part" env PROFILING_PORT=18010 "$knative_bin/autoscaler" ;;
    knative-activator) spawn_knative "$part" env PROFILING_PORT=18011 GOGC=500 "$knative_bin/activator" ;;
    knative-gateway)
      spawn_knative "$part" env KUBECONFIG="$state/gateway.kubeconfig" "$knative_gateway" gateway \
        --external-http "$machine:80" --external-https "$machine:443" --internal-http "$machine:8081" --admin 127.0.0.1:18190 \
        --external-service knative-serving/gateway --internal-service knative-serving/gateway-internal
      ;;
    *) return 1 ;;
  esac
}

up_knative() {
  local program
  for program in controller autoscaler activator webhook; do
    [[ -x $knative_bin/$program ]] || fail "$knative_bin/$program is missing: run scripts/tools first"
  done
  local domain=knative-serving.svc.cluster.local
  cat >"$state/conf/knative-hosts" <<HOSTS
127.0.0.1 localhost
$machine autoscaler.$domain autoscaler-bucket-00-of-01.$domain
HOSTS
  printf 'nameserver %s\n' "$machine" >"$state/conf/knative-resolv.conf"

  local settings applied=$state/run/knative-applied
  settings=$(knative_settings)
  if [[ ! -e $applied ]]; then
    say "  applying Knative Serving"
    local core=$knative_config/serving/core
    # The settings come before the webhook that would check them can run.
    { knative_apply -f "$core/100-namespace.yaml" -f "$core/300-resources" \
      -f "$knative_config/networking" -f "$knative_config/caching/image.yaml" -f "$core/configmaps" &&
      knative_apply -f - <<<"$settings" &&
      knative_apply -f "$core/webhooks"; } ||
      fail "Serving's own objects were refused; see $state/logs/up.log"
  fi
  # From here on ConfigMaps are checked by the webhook.
  start_dead knative-webhook
  wait_for "Serving's webhook" knative-webhook knative_answers "https://$machine:8443"
  if [[ $(cat "$applied" 2>/dev/null) != "$settings" ]]; then
    wait_for "Serving's settings" knative-webhook knative_apply -f - <<<"$settings"
    printf '%s\n' "$settings" >"$applied"
  fi
  # As a cloud's controller would; "Proxy" keeps kube-proxy from taking the address for its own.
  wait_for "the gateway's address" knative-webhook kubectl patch service gateway -n knative-serving \
    --subresource status --type merge \
    -p "{\"status\": {\"loadBalancer\": {\"ingress\": [{\"ip\": \"$machine\", \"ipMode\": \"Proxy\"}]}}}"
  start_dead knative-autoscaler
  wait_for "Serving's autoscaler" knative-autoscaler knative_answers "http://$machine:8080"
  start_dead knative-controller knative-activator
  wait_for "Serving's controller" knative-controller answers "http://$knative_controller_net.2:8080/readiness"
  # The activator says so once it has found the autoscaler.
  wait_for "Serving's activator" knative-activator knative_answers "http://$machine:8012/healthz"
  wait_for "Serving's admission of a Service" knative-webhook knative_admits
  if [[ -x $knative_gateway ]]; then
    start_dead knative-gateway
    wait_for "the gateway" knative-gateway answers http://127.0.0.1:18190/readyz
  else
    say "  no gateway: $knative_gateway is not built"
  fi
}

# The parts take a request for a kubelet's probe by its agent.
knative_answers() { within curl -sSfk --max-time 5 -o /dev/null -A kube-probe/1.37 "$1"; }

knative_apply() {
  kubectl apply --server-side --force-conflicts --field-manager test-cluster "$@" >>"$state/logs/up.log" 2>&1
}

# A Service without containers must be refused, and that by the webhook.
knative_admits() {
  local answer
  answer=$(kubectl create --dry-run=server -f - 2>&1 <<YAML
{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: probe, namespace: default}, spec: {template: {spec: {containers: []}}}}
YAML
  ) || true
  [[ $answer == *webhook.serving.knative.dev*"denied the request"* ]]
}

knative_settings() {
  sed -e "s|@STABLE_WINDOW@|${KNATIVE_STABLE_WINDOW:-6s}|; s|@GRACE@|${KNATIVE_GRACE:-6s}|" \
    -e "s|@INGRESS_CLASS@|$knative_ingress_class|; s|@MACHINE@|$machine|" \
    integration/knative/config/settings.yaml
  printf -- '---\n'
  sed "s|@MACHINE@|$machine|" integration/knative/config/services.yaml
}
