// A program that makes thumbnails, for a cell that pushes messages to it: an HTTP server, and nothing of CellMesh.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	_ "image/gif"
	_ "image/jpeg"
	"image/png"
	"log"
	"net/http"
	"os"
)

const (
	maxSide   = 1024
	maxPixels = 64 << 20 // of a picture that is asked about: beyond that it is refused before it is unpacked
)

// message is what matters here of a message: the payload. Pictures are base64, as encoding/json has them.
type message struct {
	Payload struct {
		Picture []byte `json:"picture"`
		Side    int    `json:"side"`
	} `json:"payload"`
}

type reply struct {
	Thumbnail []byte `json:"thumbnail"`
	Width     int    `json:"width"`
	Height    int    `json:"height"`
}

// handle answers 2xx with the reply, or 4xx: then the message is a dead letter, for it would fail again.
func handle(w http.ResponseWriter, r *http.Request) {
	var m message
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		refuse(w, r, err)
		return
	}
	if m.Payload.Side < 1 || m.Payload.Side > maxSide {
		refuse(w, r, errors.New("side: must be 1 to 1024 pixels"))
		return
	}
	made, err := thumbnail(m.Payload.Picture, m.Payload.Side)
	if err != nil {
		refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(made)
}

func refuse(w http.ResponseWriter, r *http.Request, why error) {
	log.Printf("message %s refused: %v", r.Header.Get("CellMesh-Message-Id"), why)
	http.Error(w, why.Error(), http.StatusUnprocessableEntity)
}

// thumbnail returns a picture of at most side by side pixels, as PNG.
func thumbnail(picture []byte, side int) (reply, error) {
	size, _, err := image.DecodeConfig(bytes.NewReader(picture))
	if err != nil {
		return reply{}, err
	}
	if size.Width < 1 || size.Height < 1 || size.Width > maxPixels/size.Height {
		return reply{}, errors.New("picture: too large")
	}
	from, _, err := image.Decode(bytes.NewReader(picture))
	if err != nil {
		return reply{}, err
	}
	width, height := fit(size.Width, size.Height, side)
	to := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := 0; y < height; y++ {
		for x := 0; x < width; x++ {
			to.Set(x, y, mean(from, area(x, width, size.Width), area(y, height, size.Height)))
		}
	}
	var out bytes.Buffer
	if err := png.Encode(&out, to); err != nil {
		return reply{}, err
	}
	return reply{out.Bytes(), width, height}, nil
}

func fit(width, height, side int) (int, int) {
	if width <= side && height <= side {
		return width, height
	}
	if width > height {
		return side, max1(height * side / width)
	}
	return max1(width * side / height), side
}

func max1(n int) int {
	if n < 1 {
		return 1
	}
	return n
}

// area returns the pixels, second exclusive, that become pixel n of so many.
func area(n, small, large int) [2]int {
	first, last := n*large/small, (n+1)*large/small
	if last == first {
		last++
	}
	return [2]int{first, last}
}

func mean(from image.Image, xs, ys [2]int) color.Color {
	var r, g, b, a, n uint64
	corner := from.Bounds().Min
	for y := ys[0]; y < ys[1]; y++ {
		for x := xs[0]; x < xs[1]; x++ {
			cr, cg, cb, ca := from.At(corner.X+x, corner.Y+y).RGBA()
			r, g, b, a, n = r+uint64(cr), g+uint64(cg), b+uint64(cb), a+uint64(ca), n+1
		}
	}
	return color.RGBA64{uint16(r / n), uint16(g / n), uint16(b / n), uint16(a / n)}
}

func main() {
	address := "127.0.0.1:9000"
	if given := os.Getenv("LISTEN"); given != "" {
		address = given
	}
	http.HandleFunc("/thumbnail", handle)
	log.Printf("listening on %s", address)
	log.Fatal(http.ListenAndServe(address, nil))
}
