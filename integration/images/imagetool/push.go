package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
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
	to := registry{url: strings.TrimSuffix(*base, "/")}
	to.user, to.password, _ = strings.Cut(*user, ":")
	for _, archive := range flags.Args() {
		if err := to.push(archive); err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
	}
	return nil
}

type registry struct{ url, user, password string }

func (r registry) push(archive string) error {
	files, err := readArchive(archive)
	if err != nil {
		return err
	}
	var contents index
	if err := json.Unmarshal(files["index.json"], &contents); err != nil {
		return err
	}
	for _, d := range contents.Manifests {
		_, name, _ := strings.Cut(d.Annotations["io.containerd.image.name"], "/")
		repository, tag, ok := strings.Cut(name, ":") // behind the host there is one colon
		if !ok {
			return errors.New("not an archive of imagetool's")
		}
		data := blobOf(files, d)
		var m manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return err
		}
		for _, blob := range append(m.Layers, m.Config) {
			if err := r.upload(repository, blob, blobOf(files, blob)); err != nil {
				return err
			}
		}
		target := fmt.Sprintf("%s/v2/%s/manifests/%s", r.url, repository, tag)
		if _, err := r.do("PUT", target, d.MediaType, data, http.StatusCreated); err != nil {
			return err
		}
	}
	return nil
}

func (r registry) upload(repository string, d descriptor, data []byte) error {
	blobs := fmt.Sprintf("%s/v2/%s/blobs/", r.url, repository)
	if _, err := r.do("HEAD", blobs+d.Digest, "", nil, http.StatusOK); err == nil {
		return nil // it has it
	}
	answer, err := r.do("POST", blobs+"uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	location, err := answer.Location()
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", d.Digest)
	location.RawQuery = query.Encode()
	_, err = r.do("PUT", location.String(), "application/octet-stream", data, http.StatusCreated)
	return err
}

func (r registry) do(method, target, mediaType string, body []byte, want int) (*http.Response, error) {
	request, err := http.NewRequest(method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if mediaType != "" {
		request.Header.Set("Content-Type", mediaType)
	}
	if r.user != "" {
		request.SetBasicAuth(r.user, r.password)
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != want {
		return nil, fmt.Errorf("%s %s: %s: %s", method, target, answer.Status, bytes.TrimSpace(text))
	}
	return answer, nil
}

// The registry is on this machine: no proxy of the environment's is between.
var client = &http.Client{Transport: &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}}

func blobOf(files map[string][]byte, d descriptor) []byte {
	return files["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
}

func readArchive(name string) (map[string][]byte, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(in); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}
