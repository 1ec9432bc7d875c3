// tsnet-stream: the twin of mesh-stream on Tailscale's tsnet, with the same words and the same lines of JSON.
//
// usage: tsnet-stream SERVER HOSTNAME sink PORT | send HOST PORT SECONDS
//
// sink takes what each connection brings; send waits for a direct path, sends for one second on a connection that is
// thrown away and then for SECONDS on a second one. Both stay until they are ended. The key comes from BENCH_AUTH_KEY.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"tailscale.com/tsnet"
)

// What is written and read at once, as in the twin.
const piece = 128 * 1024

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(words []string) error {
	if len(words) < 4 {
		return errors.New("usage: tsnet-stream SERVER HOSTNAME sink PORT | send HOST PORT SECONDS")
	}
	dir, err := os.MkdirTemp("", "tsnet-stream")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	node := &tsnet.Server{
		Dir:        dir,
		Hostname:   words[1],
		AuthKey:    os.Getenv("BENCH_AUTH_KEY"),
		ControlURL: words[0],
		Logf:       func(string, ...any) {},
		UserLogf:   func(string, ...any) {},
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	status, err := node.Up(ctx)
	if err != nil {
		return err
	}
	say(map[string]any{"addresses": status.TailscaleIPs})
	switch {
	case words[2] == "sink" && len(words) == 4:
		return sink(node, words[3])
	case words[2] == "send" && len(words) == 6:
		seconds, err := strconv.ParseFloat(words[5], 64)
		if err != nil {
			return err
		}
		return send(node, words[3], words[4], time.Duration(seconds*float64(time.Second)))
	}
	return errors.New("unknown verb")
}

func sink(node *tsnet.Server, port string) error {
	listener, err := node.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	say(map[string]any{"listening": port})
	for {
		stream, err := listener.Accept()
		if err != nil {
			return err
		}
		if err := take(stream); err != nil {
			return err
		}
	}
}

func take(stream net.Conn) error {
	defer stream.Close()
	buffer := make([]byte, piece)
	var bytes uint64
	var began time.Time
	for {
		length, err := stream.Read(buffer)
		if began.IsZero() {
			began = time.Now()
		}
		bytes += uint64(length)
		if errors.Is(err, io.EOF) {
			say(map[string]any{"received": bytes, "seconds": time.Since(began).Seconds()})
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func send(node *tsnet.Server, host, port string, length time.Duration) error {
	path, err := path(node, host)
	if err != nil {
		return err
	}
	say(map[string]any{"path": path})
	if _, err := push(node, host, port, time.Second); err != nil {
		return err
	}
	say(map[string]any{"streaming": true})
	sent, err := push(node, host, port, length)
	if err != nil {
		return err
	}
	say(map[string]any{"sent": sent})
	select {}
}

// path waits for a direct path, at most some seconds.
func path(node *tsnet.Server, host string) (string, error) {
	client, err := node.LocalClient()
	if err != nil {
		return "", err
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return "", err
	}
	for range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		answer, err := client.Ping(ctx, address, "disco")
		cancel()
		if err == nil && answer.Endpoint != "" {
			return "direct", nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "relay", nil
}

func push(node *tsnet.Server, host, port string, length time.Duration) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := node.Dial(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	buffer := make([]byte, piece)
	var sent uint64
	for started := time.Now(); time.Since(started) < length; {
		written, err := stream.Write(buffer)
		sent += uint64(written)
		if err != nil {
			return sent, err
		}
	}
	if half, ok := stream.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return sent, err
		}
	}
	// The far end closes when it has everything.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return sent, fmt.Errorf("the far end did not take the stream's end: %w", err)
	}
	return sent, nil
}

func say(line map[string]any) {
	text, err := json.Marshal(line)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}
