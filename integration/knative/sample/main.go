// Command sample is the service that tests of Knative deploy. It serves HTTP/1
// and HTTP/2 without TLS on $PORT (8080), and gRPC beside them.
//
//	GET  /               who answered, as JSON (see answer); ?ms=N after N milliseconds,
//	                     ?status=N with that status
//	GET  /headers        the request's headers, as JSON
//	GET  /stream         server-sent events: ?count=N of them, one each ?ms=N
//	POST /echo           the request's body as it comes, also in both directions at once
//	GET  /ws             a WebSocket that echoes
//	GET  /healthz        ok
//	POST /crash          ends the process with exit code 1
//	POST /allocate?mb=N  takes N MiB of memory for good
//	gRPC PingService     Ping, PingStream: answers with the message and who answered
//
// Its environment: START_DELAY, a duration it sleeps before it listens, and
// RESERVE_START_DELAY, as much more where its Pod is a reserve (what starts fast
// on two processors is slow on a tenth of one); MAX_CONCURRENT, above which it
// answers 500 (so that a test sees a limit that is not kept); TARGET, a word it
// repeats. On SIGTERM it answers what it has begun before it goes.
//
// `sample ping` is its gRPC guest: see ping.go.
package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		if os.Args[1] != "ping" {
			fail("usage: sample, or sample ping FLAG...")
		}
		if err := guest(os.Args[2:]); err != nil {
			fail("sample ping: %v", err)
		}
		return
	}
	if err := serve(); err != nil {
		fail("sample: %v", err)
	}
}

func serve() error {
	if err := pause("START_DELAY"); err != nil {
		return err
	}
	if strings.Contains(who(), "-reserve-") {
		if err := pause("RESERVE_START_DELAY"); err != nil {
			return err
		}
	}
	limit, err := strconv.Atoi(cmp.Or(os.Getenv("MAX_CONCURRENT"), "0"))
	if err != nil {
		return fmt.Errorf("MAX_CONCURRENT: %w", err)
	}
	web, calls := newSite(limit), newCalls()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			calls.ServeHTTP(w, r)
			return
		}
		web.ServeHTTP(w, r)
	})

	server := &http.Server{Addr: ":" + cmp.Or(os.Getenv("PORT"), "8080"), Handler: handler, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-stop.Done()
		server.Shutdown(context.Background()) // the Pod's grace period is the limit
	}()
	fmt.Println("open on", server.Addr)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	<-stopped
	fmt.Println("closed")
	return nil
}

// pause sleeps for the duration in a variable of the environment, if there is one.
func pause(name string) error {
	text := os.Getenv(name)
	if text == "" {
		return nil
	}
	delay, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	time.Sleep(delay)
	return nil
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
