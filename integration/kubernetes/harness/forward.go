package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// forward listens where it is started and connects each caller to a server
// inside another network namespace.
func forward(args []string) error {
	flags := flag.NewFlagSet("forward", flag.ExitOnError)
	host := flags.String("host", "127.0.0.1", "address to listen on, in the namespace of the caller")
	netns := flags.String("netns", "", "file of the network namespace to dial in")
	target := flags.String("target", "", "address to dial in that namespace")
	prefer := flags.Int("prefer", 0, "port to listen on if it is free; otherwise the kernel chooses")
	portFile := flags.String("port-file", "", "file for the port listened on, written when it is")
	if err := flags.Parse(args); err != nil {
		return err
	}

	listener, err := net.Listen("tcp", net.JoinHostPort(*host, fmt.Sprint(*prefer)))
	if err != nil && *prefer != 0 {
		log.Print(err)
		listener, err = net.Listen("tcp", net.JoinHostPort(*host, "0"))
	}
	if err != nil {
		return err
	}
	open, err := socketsIn(*netns)
	if err != nil {
		return err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := write(*portFile, fmt.Appendln(nil, port), 0o644); err != nil {
		return err
	}
	log.Printf("%s -> %s in %s", listener.Addr(), *target, *netns)
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Print(err)
			time.Sleep(100 * time.Millisecond) // most likely out of files
			continue
		}
		go func() {
			defer client.Close()
			server, err := open(*target)
			if err != nil {
				log.Print(err)
				return
			}
			defer server.Close()
			join(client.(*net.TCPConn), server.(*net.TCPConn))
		}()
	}
}

// socketsIn returns a dialer whose sockets are in the given namespace. A
// socket belongs to the namespace its thread was in when it was made, so one
// thread enters the namespace for good and makes all of them.
func socketsIn(netns string) (func(address string) (net.Conn, error), error) {
	type dial struct {
		address string
		done    chan<- func() (net.Conn, error)
	}
	dials := make(chan dial)
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is spoiled for others
		file, err := os.Open(netns)
		if err == nil {
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		entered <- err
		if err != nil {
			return
		}
		for d := range dials {
			fd, err := connect(d.address)
			d.done <- func() (net.Conn, error) {
				if err != nil {
					return nil, err
				}
				file := os.NewFile(uintptr(fd), d.address)
				defer file.Close()
				return net.FileConn(file)
			}
		}
	}()
	if err := <-entered; err != nil {
		return nil, err
	}
	return func(address string) (net.Conn, error) {
		done := make(chan func() (net.Conn, error), 1)
		dials <- dial{address, done}
		return (<-done)()
	}, nil
}

// connect is a blocking connect: the server is on the same machine, so it
// answers or refuses at once.
func connect(address string) (int, error) {
	to, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	peer := &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}
	if err := unix.Connect(fd, peer); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect %s: %w", address, err)
	}
	return fd, nil
}

// join copies both ways until both are done, and passes on half-closes.
func join(a, b *net.TCPConn) {
	ctx, cancel := context.WithCancel(context.Background())
	copyTo := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, net.ErrClosed) {
			log.Print(err)
		}
		to.CloseWrite()
	}
	go func() {
		copyTo(a, b)
		cancel()
	}()
	copyTo(b, a)
	<-ctx.Done()
}
