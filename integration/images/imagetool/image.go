package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
	typeGzipped  = typeLayer + "+gzip"
)

type image struct {
	name   string
	config config
	layers []layer

	// compress is for images that travel; the test images don't.
	compress bool
}

type config struct {
	User       string   `json:",omitempty"`
	Env        []string `json:",omitempty"`
	Entrypoint []string `json:",omitempty"`
	Cmd        []string `json:",omitempty"`
	WorkingDir string   `json:",omitempty"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// An entry is one file of a layer.
type entry struct {
	header tar.Header
	source string // file with the content, if not in content
	text   string
}

type layer []entry

func program(source, name string) entry {
	return entry{header: tar.Header{Name: name, Mode: 0o755}, source: source}
}

func file(name, text string) entry {
	return entry{header: tar.Header{Name: name, Mode: 0o644}, text: text}
}

func directory(name string, mode int64) entry {
	return entry{header: tar.Header{Name: name + "/", Mode: mode, Typeflag: tar.TypeDir}}
}

func link(name, target string) entry {
	return entry{header: tar.Header{Name: name, Linkname: target, Mode: 0o777, Typeflag: tar.TypeSymlink}}
}

// userland is a root file system of busybox and the few files it reads.
func userland(busybox string) (layer, error) {
	applets, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return nil, err
	}
	root := layer{
		directory("bin", 0o755), directory("sbin", 0o755),
		directory("usr", 0o755), directory("usr/bin", 0o755), directory("usr/sbin", 0o755),
		directory("etc", 0o755), directory("home", 0o755), directory("root", 0o700),
		directory("tmp", 0o1777), directory("var", 0o755), directory("var/tmp", 0o1777),
		file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
		file("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
		program(busybox, "bin/busybox"),
	}
	for applet := range strings.Lines(string(applets)) {
		switch applet := strings.TrimSpace(applet); applet {
		case "bin/busybox", "":
		case "linuxrc": // for an initrd
		default:
			root = append(root, link(applet, "/bin/busybox"))
		}
	}
	return root, nil
}

func (l layer) tar() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, entry := range l {
		content := []byte(entry.text)
		if entry.source != "" {
			var err error
			if content, err = os.ReadFile(entry.source); err != nil {
				return nil, err
			}
		}
		header := entry.header
		header.Size = int64(len(content))
		header.ModTime = time.Unix(0, 0)
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func gzipped(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// file is the archive's name: pilotlight.test/pause:1 is in pause-1.tar.
func (i image) file() string {
	_, name, _ := strings.Cut(i.name, "/")
	return strings.NewReplacer("/", "-", ":", "-").Replace(name) + ".tar"
}

// write makes an archive that is both an OCI layout and what `docker load`
// reads.
func (i image) write(to string) error {
	type blob struct {
		name string
		data []byte
	}
	var blobs []blob
	add := func(mediaType string, data []byte) descriptor {
		digest := digestOf(data)
		blobs = append(blobs, blob{"blobs/" + strings.Replace(digest, ":", "/", 1), data})
		return descriptor{MediaType: mediaType, Digest: digest, Size: len(data)}
	}

	m := manifest{SchemaVersion: 2, MediaType: typeManifest}
	var diffs, layerFiles []string
	for _, layer := range i.layers {
		data, err := layer.tar()
		if err != nil {
			return err
		}
		diffs = append(diffs, digestOf(data))
		mediaType := typeLayer
		if i.compress {
			mediaType = typeGzipped
			if data, err = gzipped(data); err != nil {
				return err
			}
		}
		m.Layers = append(m.Layers, add(mediaType, data))
		layerFiles = append(layerFiles, blobs[len(blobs)-1].name)
	}
	encoded, err := json.Marshal(map[string]any{
		"created":      "1970-01-01T00:00:00Z",
		"architecture": "amd64",
		"os":           "linux",
		"config":       i.config,
		"rootfs":       map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		return err
	}
	m.Config = add(typeConfig, encoded)
	configFile := blobs[len(blobs)-1].name
	if encoded, err = json.Marshal(m); err != nil {
		return err
	}
	d := add(typeManifest, encoded)
	tag := i.name[strings.LastIndex(i.name, ":")+1:]
	d.Annotations = map[string]string{
		"io.containerd.image.name":          i.name,
		"org.opencontainers.image.ref.name": tag,
	}
	indexText, err := json.Marshal(index{2, typeIndex, []descriptor{d}})
	if err != nil {
		return err
	}
	dockerText, err := json.Marshal([]map[string]any{{
		"Config": configFile, "RepoTags": []string{i.name}, "Layers": layerFiles,
	}})
	if err != nil {
		return err
	}
	blobs = append(blobs,
		blob{"index.json", indexText},
		blob{"manifest.json", dockerText},
		blob{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)})

	out, err := os.CreateTemp(filepath.Dir(to), ".image")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	w := tar.NewWriter(out)
	for _, blob := range blobs {
		header := &tar.Header{Name: blob.name, Mode: 0o644, Size: int64(len(blob.data)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(blob.data)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := out.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}
