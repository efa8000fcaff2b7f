// A brass orrery on a wooden table: four planets on arms go around a lamp while the camera turns.
// `clock` runs from 0 to 1 once around. Everything is in this file; nothing of POV-Ray's own
// library is included. Units are centimeters, y is up, the table's top is y = 0.
#version 3.7;

global_settings {
  assumed_gamma 1.0
  max_trace_level 10
  // Light that surfaces throw on each other. Samples are shared between pixels, so which are taken
  // first matters: with two threads no two renderings have the same bytes.
  radiosity {
    pretrace_start 0.08
    pretrace_end 0.02
    count 80
    nearest_count 8
    error_bound 0.7
    low_error_factor 0.7
    minimum_reuse 0.012
    recursion_limit 1
    gray_threshold 0.2
  }
}

// One turn of the clock brings every planet and the camera back: the frames make a loop.
#declare Turn = 360 * clock;

// ---- materials ----------------------------------------------------------------------------------

#declare Brass = texture {
  pigment { color rgb <0.78, 0.50, 0.16> }
  finish {
    ambient 0.04 diffuse 0.35 brilliance 3
    specular 0.6 roughness 0.03 metallic
    reflection { 0.35 metallic }
  }
}

#declare Walnut = texture {
  pigment {
    wood
    turbulence <0.08, 0.03, 0.3>
    octaves 4
    color_map {
      [0.0 color rgb <0.30, 0.145, 0.06>]
      [0.6 color rgb <0.22, 0.10, 0.04>]
      [0.9 color rgb <0.11, 0.045, 0.02>]
      [1.0 color rgb <0.30, 0.145, 0.06>]
    }
    scale <1.6, 1.6, 9>
    rotate <2, 12, 0>
    translate <31, -4, 0>
  }
  finish { ambient 0.05 diffuse 0.7 specular 0.25 roughness 0.04 reflection 0.07 }
}

#declare Glass = material {
  texture {
    pigment { color rgbf <0.93, 0.97, 1.0, 0.93> }
    finish { ambient 0 diffuse 0.02 specular 0.7 roughness 0.002 reflection { 0.02, 0.9 fresnel } }
  }
  interior { ior 1.5 }
}

// A planet's surface: bands or patches of three colors.
#macro Surface(First, Second, Third, Roughness)
  texture {
    pigment {
      gradient y
      turbulence Roughness
      octaves 5
      color_map { [0.0 color First] [0.45 color Second] [0.75 color Third] [1.0 color First] }
      scale 0.9
    }
    normal { granite 0.12 scale 0.7 }
    finish { ambient 0.03 diffuse 0.8 specular 0.15 roughness 0.05 }
  }
#end

// ---- the orrery ---------------------------------------------------------------------------------

#declare LampHeight = 7.0;

#declare Stand = union {
  cylinder { <0, 0, 0>, <0, 0.5, 0>, 3.2 }
  torus { 3.2, 0.25 translate 0.25 * y }
  cone { <0, 0.5, 0>, 1.5, <0, 1.5, 0>, 0.45 }
  cylinder { <0, 1.5, 0>, <0, LampHeight - 1.3, 0>, 0.3 }
  torus { 0.3, 0.16 translate 2.2 * y }
  torus { 0.3, 0.16 translate 4.6 * y }
  texture { Brass }
}

// A gear with teeth, one for each planet, below its arm.
#macro Gear(Radius, Teeth)
  union {
    difference {
      cylinder { <0, -0.09, 0>, <0, 0.09, 0>, Radius }
      #for (Hole, 0, 4)
        cylinder { <0, -0.2, 0>, <0, 0.2, 0>, Radius * 0.2
          translate <Radius * 0.6, 0, 0> rotate 72 * Hole * y }
      #end
    }
    #for (Tooth, 0, Teeth - 1)
      box { <Radius - 0.05, -0.09, -0.05>, <Radius + 0.13, 0.09, 0.05>
        rotate 360 / Teeth * Tooth * y }
    #end
    texture { Brass }
  }
#end

// An arm at a height, with a post that carries what stands at its end; `Angle` in degrees.
#macro Arm(Height, Length, Angle, Teeth)
  union {
    object { Gear(0.7 + 0.05 * Teeth, Teeth) }
    cylinder { <0, 0.16, 0>, <Length, 0.16, 0>, 0.09 }
    cylinder { <Length, 0.16, 0>, <Length, LampHeight - Height, 0>, 0.07 }
    sphere { <Length, 0.16, 0>, 0.17 }
    texture { Brass }
    rotate Angle * y
    translate Height * y
  }
#end

#macro Planet(Radius, Distance, Angle)
  sphere { 0, Radius
    Surface(Colors[0], Colors[1], Colors[2], Wildness)
    rotate <0, 5 * Angle, 18>
    translate <Distance, LampHeight, 0>
    rotate Angle * y
  }
#end

object { Stand }

// Around the lamp 4, 3, 2 and 1 times in a loop, the inner ones faster.
#declare Inner = 40 - 4 * Turn;
#declare Second = 160 - 3 * Turn;
#declare Third = 275 - 2 * Turn;
#declare Outer = 335 - Turn;

Arm(5.1, 2.5, Inner, 10)
Arm(4.1, 4.2, Second, 16)
Arm(3.1, 6.3, Third, 22)
Arm(2.2, 9.0, Outer, 28)

#declare Colors = array[3] { rgb <0.55, 0.47, 0.40>, rgb <0.35, 0.30, 0.27>, rgb <0.7, 0.6, 0.5> }
#declare Wildness = 0.9;
Planet(0.42, 2.5, Inner)

#declare Colors = array[3] { rgb <0.85, 0.55, 0.25>, rgb <0.75, 0.36, 0.14>, rgb <0.95, 0.8, 0.55> }
#declare Wildness = 0.35;
Planet(0.75, 4.2, Second)

#declare Colors = array[3] { rgb <0.05, 0.16, 0.5>, rgb <0.1, 0.4, 0.16>, rgb <0.85, 0.9, 0.95> }
#declare Wildness = 1.1;
Planet(0.85, 6.3, Third)

// The outermost is of glass, with a ring of brass: it shows the others upside down.
union {
  sphere { 0, 1.2 material { Glass } }
  torus { 1.75, 0.12 scale <1, 0.4, 1> texture { Brass } rotate 24 * z }
  translate <9.0, LampHeight, 0>
  rotate Outer * y
}

// ---- balls --------------------------------------------------------------------------------------

// Four mirrors that touch, in a ring.
#declare Ball = 1.25;

union {
  #for (Corner, 0, 2)
    sphere { <2 / sqrt(3) * Ball, Ball, 0>, Ball rotate 120 * Corner * y }
  #end
  sphere { (1 + 2 * sqrt(2 / 3)) * Ball * y, Ball }
  torus { (2 / sqrt(3) + 1) * Ball, 0.35 translate 0.35 * y }
  texture {
    pigment { color rgb <0.9, 0.92, 0.95> }
    finish { ambient 0 diffuse 0.03 specular 0.5 roughness 0.002 reflection { 0.93 metallic } }
  }
  rotate (25 + 120 * clock) * y  // a third of a turn looks like none
  translate <5.4, 0, -6.4>
}

// ---- lamp, room, camera -------------------------------------------------------------------------

// The lamp is a bulb of light in the middle; soft shadows come from the window, a 3 x 3 array.
light_source {
  LampHeight * y
  color rgb <1.0, 0.82, 0.55> * 1.1
  fade_distance 9
  fade_power 2
  looks_like {
    sphere { 0, 1.15
      pigment {
        bozo turbulence 0.6
        color_map { [0.0 color rgb <1, 0.9, 0.55>] [1.0 color rgb <1, 0.62, 0.2>] }
      }
      normal { bumps 0.3 scale 0.25 }
      finish { ambient 0 diffuse 0 emission 1.1 }
      rotate Turn * y
    }
  }
}

light_source {
  <-26, 30, -18>
  color rgb <0.72, 0.82, 1.0> * 0.75
  area_light <6, 0, -5>, <0, 8, 0>, 3, 3
}

plane { y, 0 texture { Walnut } }

// A wall with a faint stripe behind everything, all around: the camera turns.
cylinder { <0, -1, 0>, <0, 60, 0>, 60 open
  pigment {
    radial frequency 48
    color_map {
      [0.0 color rgb <0.17, 0.22, 0.24>] [0.45 color rgb <0.17, 0.22, 0.24>]
      [0.5 color rgb <0.12, 0.165, 0.18>] [1.0 color rgb <0.12, 0.165, 0.18>]
    }
  }
  finish { ambient 0.12 diffuse 0.6 }
}

camera {
  location <0, 13.5, -21>
  right x * image_width / image_height
  angle 48
  look_at <0, 4.6, 0>
  rotate 12 * sin(radians(Turn)) * y
}
