package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// push uploads archives to a registry. The host in an image's name is dropped:
// pilotlight.test/busybox:1 becomes REGISTRY/busybox:1.
func push(args []string) error {
	flags := flag.NewFlagSet("push", flag.ExitOnError)
	base := flags.String("registry", "", "the registry's URL")
	user := flags.String("user", "", "user:password, for a registry that asks")
	if err := flags.Parse(args); err != nil {
		return err
	}
	to, err := registryAt(*base, *user)
	if err != nil {
		return err
	}
	for _, archive := range flags.Args() {
		if err := to.push(context.Background(), archive); err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
	}
	return nil
}

type registry struct {
	host   string
	plain  bool
	client *auth.Client
}

// registryAt is one that is asked as the distribution specification has it:
// with the password itself, or with the token of its token service, whichever
// it demands. The environment's proxy ($HTTPS_PROXY, $NO_PROXY) is between,
// but for one on this machine's loopback.
func registryAt(base, user string) (registry, error) {
	at, err := url.Parse(base)
	if err != nil || (at.Scheme != "http" && at.Scheme != "https") || at.Host == "" || strings.Trim(at.Path, "/") != "" {
		return registry{}, fmt.Errorf("--registry %q: expected http:// or https:// and a host, such as https://registry.example.com", base)
	}
	// net/http's own transport asks the environment.
	client := &auth.Client{
		Client: &http.Client{Transport: retry.NewTransport(http.DefaultTransport)},
		Cache:  auth.NewCache(),
	}
	if user != "" {
		name, password, ok := strings.Cut(user, ":")
		if !ok {
			return registry{}, errors.New("--user: expected USER:PASSWORD")
		}
		client.Credential = auth.StaticCredential(at.Host, auth.Credential{Username: name, Password: password})
	}
	return registry{host: at.Host, plain: at.Scheme == "http", client: client}, nil
}

func (r registry) push(ctx context.Context, archive string) error {
	contents, err := indexOf(archive)
	if err != nil {
		return err
	}
	images, err := oci.NewFromTar(ctx, archive)
	if err != nil {
		return err
	}
	for _, d := range contents.Manifests {
		_, name, _ := strings.Cut(d.Annotations["io.containerd.image.name"], "/")
		repository, tag, ok := strings.Cut(name, ":") // behind the host there is one colon
		if !ok {
			return errors.New("not an archive of imagetool's")
		}
		target, err := remote.NewRepository(r.host + "/" + repository)
		if err != nil {
			return err
		}
		target.PlainHTTP, target.Client = r.plain, r.client
		if _, err := oras.Copy(ctx, images, tag, target, tag, oras.DefaultCopyOptions); err != nil {
			return err
		}
	}
	return nil
}

// indexOf is what the archive says that it holds.
func indexOf(archive string) (contents index, err error) {
	in, err := os.Open(archive)
	if err != nil {
		return contents, err
	}
	defer in.Close()
	for r := tar.NewReader(in); ; {
		header, err := r.Next()
		if err != nil {
			return contents, fmt.Errorf("index.json: %w", err)
		}
		if header.Name == "index.json" {
			return contents, json.NewDecoder(r).Decode(&contents)
		}
	}
}
