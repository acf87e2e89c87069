package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pki writes a cluster's authorities, certificates, keys and kubeconfigs.
// What is there already is kept, except for kubeconfigs, which are cheap and
// whose server may have changed.
func pki(args []string) error {
	flags := flag.NewFlagSet("pki", flag.ExitOnError)
	dir := flags.String("dir", "", "directory for certificates and keys")
	kubeconfigs := flags.String("kubeconfigs", "", "directory for kubeconfigs")
	address := flags.String("address", "", "the machine's address inside the cluster")
	service := flags.String("service", "", "the API server's service address")
	inside := flags.String("inside", "", "the API server's URL inside the cluster")
	outside := flags.String("outside", "", "the API server's URL from outside")
	node := flags.String("node", "kubelet", "name of the real kubelet's node")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, d := range []string{*dir, *kubeconfigs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	store := store{*dir}

	ca, err := store.authority("ca", "pilotlight-test-ca")
	if err != nil {
		return err
	}
	frontProxy, err := store.authority("front-proxy-ca", "pilotlight-test-front-proxy-ca")
	if err != nil {
		return err
	}
	if err := store.serviceAccountKey("sa"); err != nil {
		return err
	}
	ips := []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(*address), net.ParseIP(*service)}
	if _, err := store.issue(ca, "apiserver", request{
		name: "kube-apiserver", ips: ips, server: true,
		dns: []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local",
		},
	}); err != nil {
		return err
	}
	if _, err := store.issue(ca, "kubelet-server", request{
		name: "system:node:" + *node, groups: []string{"system:nodes"}, server: true,
		ips: []net.IP{net.ParseIP(*address)}, dns: []string{*node},
	}); err != nil {
		return err
	}
	if _, err := store.issue(ca, "apiserver-kubelet-client", request{name: "kube-apiserver-kubelet-client"}); err != nil {
		return err
	}
	if _, err := store.issue(frontProxy, "front-proxy-client", request{name: "front-proxy-client"}); err != nil {
		return err
	}

	clients := []struct {
		kubeconfig, server string
		request            request
	}{
		{"admin", *outside, request{name: "admin", groups: []string{"system:masters"}}},
		{"admin-inside", *inside, request{name: "admin", groups: []string{"system:masters"}}},
		{"provider", *inside, request{name: "pilotlight"}},
		{"gateway", *inside, request{name: "system:serviceaccount:pilotlight-system:pilotlight-gateway"}},
		{"kube-controller-manager", *inside, request{name: "system:kube-controller-manager"}},
		{"kube-scheduler", *inside, request{name: "system:kube-scheduler"}},
		{"coredns", *inside, request{name: "system:coredns"}},
		{"approver", *inside, request{name: "system:serving-certificate-approver"}},
		{"kubelet", *inside, request{name: "system:node:" + *node, groups: []string{"system:nodes"}}},
		{"kube-proxy", *inside, request{name: "system:kube-proxy"}},
	}
	for _, client := range clients {
		pair, err := store.issue(ca, "client-"+client.kubeconfig, client.request)
		if err != nil {
			return err
		}
		text := kubeconfig(client.server, client.request.name, ca.certPEM, pair)
		if err := write(filepath.Join(*kubeconfigs, client.kubeconfig+".kubeconfig"), text, 0o600); err != nil {
			return err
		}
	}
	return write(filepath.Join(*kubeconfigs, "ca.crt"), ca.certPEM, 0o644)
}

type store struct{ dir string }

type pair struct {
	cert            *x509.Certificate
	key             *ecdsa.PrivateKey
	certPEM, keyPEM []byte
}

type request struct {
	name   string
	groups []string
	dns    []string
	ips    []net.IP
	server bool
}

const lifetime = 10 * 365 * 24 * time.Hour

func (s store) authority(file, name string) (pair, error) {
	return s.load(file, func(key *ecdsa.PrivateKey) ([]byte, error) {
		template := newTemplate(pkix.Name{CommonName: name})
		template.IsCA = true
		template.BasicConstraintsValid = true
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
		return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	})
}

func (s store) issue(authority pair, file string, r request) (pair, error) {
	return s.load(file, func(key *ecdsa.PrivateKey) ([]byte, error) {
		template := newTemplate(pkix.Name{CommonName: r.name, Organization: r.groups})
		template.KeyUsage = x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if r.server {
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}
		template.DNSNames, template.IPAddresses = r.dns, r.ips
		return x509.CreateCertificate(rand.Reader, template, authority.cert, key.Public(), authority.key)
	})
}

func newTemplate(subject pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // no randomness, no keys
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(lifetime),
	}
}

// load reads file.crt and file.key, or makes them.
func (s store) load(file string, sign func(*ecdsa.PrivateKey) ([]byte, error)) (pair, error) {
	certFile, keyFile := filepath.Join(s.dir, file+".crt"), filepath.Join(s.dir, file+".key")
	certPEM, certErr := os.ReadFile(certFile)
	keyPEM, keyErr := os.ReadFile(keyFile)
	if errors.Is(certErr, fs.ErrNotExist) || errors.Is(keyErr, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return pair{}, err
		}
		if keyPEM, err = encodeKey(key); err != nil {
			return pair{}, err
		}
		der, err := sign(key)
		if err != nil {
			return pair{}, err
		}
		certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := write(keyFile, keyPEM, 0o600); err != nil {
			return pair{}, err
		}
		if err := write(certFile, certPEM, 0o644); err != nil {
			return pair{}, err
		}
	} else if err := errors.Join(certErr, keyErr); err != nil {
		return pair{}, err
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return pair{}, fmt.Errorf("%s: not PEM", certFile)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return pair{}, err
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return pair{}, err
	}
	return pair{cert, key, certPEM, keyPEM}, nil
}

func (s store) serviceAccountKey(file string) error {
	keyFile := filepath.Join(s.dir, file+".key")
	if _, err := os.Stat(filepath.Join(s.dir, file+".pub")); err == nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := write(keyFile, keyPEM, 0o600); err != nil {
		return err
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	return write(filepath.Join(s.dir, file+".pub"), publicPEM, 0o644)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func kubeconfig(server, user string, ca []byte, client pair) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: test
contexts:
- name: test
  context: {cluster: test, user: %q}
clusters:
- name: test
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: %q
  user:
    client-certificate-data: %s
    client-key-data: %s
`, user, server, b64(ca), user, b64(client.certPEM), b64(client.keyPEM))
}

// write replaces a file whole, and leaves it alone if it is as it should be.
func write(file string, content []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := os.WriteFile(file+".new", content, mode); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
