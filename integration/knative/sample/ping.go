package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	ping "knative.dev/serving/test/test_images/grpc-ping/proto"
)

type pinger struct{}

func newCalls() *grpc.Server {
	server := grpc.NewServer()
	ping.RegisterPingServiceServer(server, pinger{})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	return server
}

func pong(request *ping.Request) *ping.Response {
	return &ping.Response{Msg: request.Msg + " from " + who() + " " + os.Getenv("TARGET")}
}

func (pinger) Ping(_ context.Context, request *ping.Request) (*ping.Response, error) {
	return pong(request), nil
}

func (pinger) PingStream(stream ping.PingService_PingStreamServer) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(pong(request)); err != nil {
			return err
		}
	}
}

// guest calls Ping once and PingStream with --messages, each sent after the
// answer to the one before, and prints the answers, a line each.
func guest(args []string) error {
	flags := flag.NewFlagSet("ping", flag.ExitOnError)
	target := flags.String("target", "", "address:port to connect to")
	authority := flags.String("authority", "", "host name to ask for, if not the target")
	messages := flags.Int("messages", 3, "messages of the stream")
	pause := flags.Duration("pause", 0, "pause between two messages of the stream")
	limit := flags.Duration("timeout", 60*time.Second, "limit of each call")
	headers := metadata.MD{}
	flags.Func("header", "a header of each call, NAME=VALUE; may be repeated", func(text string) error {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return errors.New("it must be NAME=VALUE")
		}
		headers.Append(name, value)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy()}
	if *authority != "" {
		options = append(options, grpc.WithAuthority(*authority))
	}
	connection, err := grpc.NewClient("passthrough:///"+*target, options...)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := ping.NewPingServiceClient(connection)
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), headers), *limit)
	defer cancel()

	answer, err := client.Ping(ctx, &ping.Request{Msg: "unary"})
	if err != nil {
		return err
	}
	fmt.Println(answer.Msg)
	stream, err := client.PingStream(ctx)
	if err != nil {
		return err
	}
	for i := range *messages {
		if err := stream.Send(&ping.Request{Msg: fmt.Sprintf("message %d", i)}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		fmt.Println(answer.Msg)
		time.Sleep(*pause)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the last message: %w", err)
	}
	return nil
}
