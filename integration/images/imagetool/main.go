// Command imagetool builds images from local files, as OCI layouts in tar
// archives, and pushes them to a registry: the test images all at once, or one
// of given files. The same input makes the same bytes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case "build":
			err = build(os.Args[2:])
		case "pack":
			err = pack(os.Args[2:])
		case "push":
			err = push(os.Args[2:])
		default:
			usage()
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "imagetool %s: %v\n", os.Args[1], err)
			os.Exit(1)
		}
		return
	}
	usage()
}

func usage() {
	fmt.Fprintln(os.Stderr, `usage:
  imagetool build --out DIR --agnhost FILE --busybox FILE --coffee FILE --pause FILE [--program NAME=FILE]...
  imagetool pack --out FILE --name NAME:TAG --entrypoint PROGRAM [--user UID:GID] [--file PATH[:MODE]=FILE]...
  imagetool push --registry URL [--user USER:PASSWORD] ARCHIVE...`)
	os.Exit(2)
}

const pathVariable = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func build(args []string) error {
	flags := flag.NewFlagSet("build", flag.ExitOnError)
	out := flags.String("out", "", "directory for the archives")
	agnhost := flags.String("agnhost", "", "the program agnhost")
	busybox := flags.String("busybox", "", "a static busybox")
	coffee := flags.String("coffee", "", "the program coffee")
	pause := flags.String("pause", "", "the program pause")
	var programs []image
	flags.Func("program", "NAME=FILE: an image of this static program alone; may be repeated", func(text string) error {
		name, file, ok := strings.Cut(text, "=")
		if !ok {
			return errors.New("it must be NAME=FILE")
		}
		programs = append(programs, ofProgram(name, file))
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}

	base, err := userland(*busybox)
	if err != nil {
		return err
	}
	images := []image{
		{
			name:   "pilotlight.test/pause:1",
			config: config{Entrypoint: []string{"/pause"}, User: "65535:65535", Env: []string{pathVariable}},
			layers: []layer{{program(*pause, "pause")}},
		},
		{
			name:   "pilotlight.test/busybox:1",
			config: config{Cmd: []string{"sh"}, Env: []string{pathVariable}},
			layers: []layer{base},
		},
		{
			name:   "pilotlight.test/agnhost:1",
			config: config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{pathVariable}},
			layers: []layer{base, {
				program(*agnhost, "agnhost"),
				link("agnhost-2", "agnhost"),
				directory("uploads", 0o755),
			}},
		},
		{
			name:   "pilotlight.test/coffee:1",
			config: config{Entrypoint: []string{"/coffee"}, User: "65532:65532", Env: []string{pathVariable}},
			layers: []layer{base, {program(*coffee, "coffee")}},
		},
	}
	for _, image := range append(images, programs...) {
		file := filepath.Join(*out, image.file())
		if err := image.write(file); err != nil {
			return fmt.Errorf("%s: %w", image.name, err)
		}
		fmt.Printf("%s: %s\n", image.name, file)
	}
	return nil
}

// ofProgram is an image as ko makes them: the program, /tmp, and a user without
// rights, by number (who demands runAsNonRoot can't tell of a name). The program
// bears the last part of the name: Serving's suites call it by its path.
func ofProgram(name, file string) image {
	place := "ko-app/" + path.Base(name)
	return image{
		name:   "pilotlight.test/" + name + ":1",
		config: config{Entrypoint: []string{"/" + place}, User: "65532:65532", Env: []string{pathVariable}},
		layers: []layer{{directory("tmp", 0o1777), directory("ko-app", 0o755), program(file, place)}},
	}
}
