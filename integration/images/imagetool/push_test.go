package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"oras.land/oras-go/v2/registry/remote/retry"
)

// standin is a registry that keeps what it is given, as far as a push asks, and
// its token service.
type standin struct {
	*httptest.Server

	// "" lets everyone in; Basic and Bearer demand it so.
	demands string
	// What a client without a token is told to ask for.
	asked []string

	mu   sync.Mutex
	kept map[string][]byte
}

const (
	userName = "puller"
	password = "secret"
	token    = "a-token"
)

func registryThat(t *testing.T, demands string) *standin {
	t.Helper()
	s := &standin{demands: demands, kept: map[string][]byte{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	t.Cleanup(s.Close)
	return s
}

func (s *standin) answer(w http.ResponseWriter, request *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, word, basic := request.BasicAuth()
	known := basic && name == userName && word == password
	if request.URL.Path == "/token" {
		if !known {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		query := request.URL.Query()
		s.asked = append(s.asked, query.Get("service")+" "+query.Get("scope"))
		fmt.Fprintf(w, `{"token": %q}`, token)
		return
	}
	switch s.demands {
	case "Basic":
		if !known {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	case "Bearer":
		if request.Header.Get("Authorization") != "Bearer "+token {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="registry.example.com",scope="repository:team/tool:pull,push"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	path := request.URL.Path
	content, err := io.ReadAll(request.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch request.Method {
	case "HEAD":
		found, ok := s.kept[path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(found)))
		w.Header().Set("Docker-Content-Digest", digestOf(found))
	case "POST":
		w.Header().Set("Location", path+"one")
		w.WriteHeader(http.StatusAccepted)
	case "PUT":
		if digest := request.URL.Query().Get("digest"); digest != "" {
			path = strings.Replace(path, "uploads/one", digest, 1)
		}
		s.kept[path] = content
		w.Header().Set("Docker-Content-Digest", digestOf(content))
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// TestMain has all tests behind a proxy that isn't there: net/http reads the
// environment once.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		os.Unsetenv(strings.ToLower(name))
		os.Setenv(name, "http://proxy.example.com:3128")
	}
	os.Unsetenv("NO_PROXY")
	os.Exit(m.Run())
}

// packed is an archive of registry.example.com/team/tool:1.
func packed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program, archive := filepath.Join(dir, "program"), filepath.Join(dir, "tool.tar")
	if err := os.WriteFile(program, []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := pack([]string{"--out", archive, "--name", "registry.example.com/team/tool:1", "--entrypoint", "/tool", "--file", "/tool=" + program})
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func TestAnArchiveIsPushedToARegistryThatDemandsNothingAPasswordOrAToken(t *testing.T) {
	for _, demands := range []string{"", "Basic", "Bearer"} {
		to := registryThat(t, demands)
		args := []string{"--registry", to.URL}
		if demands != "" {
			args = append(args, "--user", userName+":"+password)
		}
		if err := push(append(args, packed(t))); err != nil {
			t.Fatalf("%q: %v", demands, err)
		}
		kept := to.kept["/v2/team/tool/manifests/1"]
		if !strings.Contains(string(kept), typeManifest) {
			t.Errorf("%q: the manifest is %q", demands, kept)
		}
		// The layer, the configuration, the manifest.
		if len(to.kept) != 3 {
			t.Errorf("%q: it has %d: %v", demands, len(to.kept), to.kept)
		}
		for _, asked := range to.asked {
			if !strings.HasPrefix(asked, "registry.example.com repository:team/tool:") || !strings.Contains(asked, "push") {
				t.Errorf("a token was asked for %q", asked)
			}
		}
		if (len(to.asked) > 0) != (demands == "Bearer") {
			t.Errorf("%q: %d tokens were asked for", demands, len(to.asked))
		}
	}
}

func TestAWrongPasswordIsTold(t *testing.T) {
	for _, demands := range []string{"Basic", "Bearer"} {
		to := registryThat(t, demands)
		err := push([]string{"--registry", to.URL, "--user", userName + ":wrong", packed(t)})
		if err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("%s: %v", demands, err)
		}
	}
}

func TestARegistryElsewhereIsAskedByTheEnvironmentsProxy(t *testing.T) {
	to, err := registryAt("https://registry.example.com", "")
	if err != nil {
		t.Fatal(err)
	}
	transport := to.client.Client.Transport.(*retry.Transport).Base.(*http.Transport)
	for host, wanted := range map[string]string{"registry.example.com": "proxy.example.com:3128", "127.0.0.1:5000": ""} {
		request := &http.Request{URL: &url.URL{Scheme: "https", Host: host}}
		proxy, err := transport.Proxy(request)
		if err != nil {
			t.Fatal(err)
		}
		found := ""
		if proxy != nil {
			found = proxy.Host
		}
		if found != wanted {
			t.Errorf("%s by %q, not %q", host, found, wanted)
		}
	}
}

func TestWhatIsNoRegistrysURLIsRefused(t *testing.T) {
	for _, base := range []string{"", "registry.example.com", "ftp://registry.example.com", "https://registry.example.com/team"} {
		if _, err := registryAt(base, ""); err == nil || !strings.Contains(err.Error(), "expected http") {
			t.Errorf("%q: %v", base, err)
		}
	}
	if _, err := registryAt("https://registry.example.com", "puller"); err == nil || !strings.Contains(err.Error(), "USER:PASSWORD") {
		t.Errorf("a user without a password: %v", err)
	}
}
