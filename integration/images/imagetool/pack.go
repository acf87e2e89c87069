package main

import (
	"errors"
	"flag"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// pack makes one image of files of this machine: no shell, nothing else.
func pack(args []string) error {
	flags := flag.NewFlagSet("pack", flag.ExitOnError)
	out := flags.String("out", "", "the archive")
	name := flags.String("name", "", "the image's name with a tag")
	entrypoint := flags.String("entrypoint", "", "the program that it runs")
	user := flags.String("user", "65532:65532", "UID:GID; by number, for who demands runAsNonRoot can't tell of a name")
	root := layer{directory("tmp", 0o1777)}
	made := map[string]bool{"tmp": true}
	flags.Func("file", "PATH[:MODE]=FILE: a file in the image; may be repeated", func(text string) error {
		to, from, ok := strings.Cut(text, "=")
		if !ok {
			return errors.New("it must be PATH[:MODE]=FILE")
		}
		mode := int64(0o755)
		if before, octal, found := strings.Cut(to, ":"); found {
			parsed, err := strconv.ParseInt(octal, 8, 32)
			if err != nil {
				return err
			}
			to, mode = before, parsed
		}
		to = strings.TrimPrefix(path.Clean(to), "/")
		parts := strings.Split(path.Dir(to), "/")
		for depth := range parts {
			dir := strings.Join(parts[:depth+1], "/")
			if dir != "." && !made[dir] {
				root, made[dir] = append(root, directory(dir, 0o755)), true
			}
		}
		file := program(from, to)
		file.header.Mode = mode
		root = append(root, file)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" || !strings.Contains(path.Base(*name), ":") || *entrypoint == "" {
		return errors.New("--out, --name with a tag and --entrypoint are needed")
	}
	image := image{
		name:     *name,
		config:   config{Entrypoint: []string{*entrypoint}, User: *user, Env: []string{pathVariable}},
		layers:   []layer{root},
		compress: true,
	}
	if err := image.write(*out); err != nil {
		return err
	}
	fmt.Printf("%s: %s\n", *name, *out)
	return nil
}
